//! Which addresses are on the public internet: those that IANA's two special-purpose address registries call globally
//! reachable.
//!
//! What always holds: an address counts as globally reachable only if the smallest block of its registry that holds it
//! says `True` (`False` and `N/A` do not), or if no block holds it and it is unicast. An IPv6 address that stands for an
//! IPv4 address counts as that one. Tested below.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first address of a block, the length of its prefix in bits, and whether the registry says `True`.
type Block<A> = (A, u32, bool);

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u32, reachable: bool) -> Block<Ipv4Addr> {
    (Ipv4Addr::new(a, b, c, d), length, reachable)
}

/// Of a block that its first three groups and its last one name.
const fn v6(groups: [u16; 3], last: u16, length: u32, reachable: bool) -> Block<Ipv6Addr> {
    let [a, b, c] = groups;
    (Ipv6Addr::new(a, b, c, 0, 0, 0, 0, last), length, reachable)
}

/// The IANA IPv4 Special-Purpose Address Registry as of 2025-10-09, in its order.
const IPV4: [Block<Ipv4Addr>; 26] = [
    v4(0, 0, 0, 0, 8, false),          // "This network"
    v4(0, 0, 0, 0, 32, false),         // "This host on this network"
    v4(10, 0, 0, 0, 8, false),         // Private-Use
    v4(100, 64, 0, 0, 10, false),      // Shared Address Space
    v4(127, 0, 0, 0, 8, false),        // Loopback
    v4(169, 254, 0, 0, 16, false),     // Link Local
    v4(172, 16, 0, 0, 12, false),      // Private-Use
    v4(192, 0, 0, 0, 24, false),       // IETF Protocol Assignments
    v4(192, 0, 0, 0, 29, false),       // IPv4 Service Continuity Prefix
    v4(192, 0, 0, 8, 32, false),       // IPv4 dummy address
    v4(192, 0, 0, 9, 32, true),        // Port Control Protocol Anycast
    v4(192, 0, 0, 10, 32, true),       // Traversal Using Relays around NAT Anycast
    v4(192, 0, 0, 170, 31, false),     // NAT64/DNS64 Discovery, two rows
    v4(192, 0, 2, 0, 24, false),       // Documentation (TEST-NET-1)
    v4(192, 31, 196, 0, 24, true),     // AS112-v4
    v4(192, 52, 193, 0, 24, true),     // AMT
    v4(192, 88, 99, 0, 24, false),     // Deprecated (6to4 Relay Anycast): N/A
    v4(192, 88, 99, 2, 32, false),     // 6a44-relay anycast address
    v4(192, 168, 0, 0, 16, false),     // Private-Use
    v4(192, 175, 48, 0, 24, true),     // Direct Delegation AS112 Service
    v4(198, 18, 0, 0, 15, false),      // Benchmarking
    v4(198, 51, 100, 0, 24, false),    // Documentation (TEST-NET-2)
    v4(203, 0, 113, 0, 24, false),     // Documentation (TEST-NET-3)
    v4(240, 0, 0, 0, 4, false),        // Reserved
    v4(255, 255, 255, 255, 32, false), // Limited Broadcast
    // Not in the registry, because it is no unicast.
    v4(224, 0, 0, 0, 4, false), // Multicast
];

/// The IANA IPv6 Special-Purpose Address Registry as of 2025-10-09, in its order, without the blocks of which each
/// address stands for an IPv4 address ([`ipv4_inside`]): IPv4-mapped Address, IPv4-IPv6 Translat. (`64:ff9b::/96`), 6to4.
/// What is outside of [`UNICAST`] is not reachable anyway, and stands here because the registry has it.
const IPV6: [Block<Ipv6Addr>; 23] = [
    v6([0, 0, 0], 1, 128, false),            // Loopback Address
    v6([0, 0, 0], 0, 128, false),            // Unspecified Address
    v6([0x64, 0xff9b, 1], 0, 48, false),     // IPv4-IPv6 Translat., of a network's own choice
    v6([0x100, 0, 0], 0, 64, false),         // Discard-Only Address Block
    (DUMMY, 64, false),                      // Dummy IPv6 Prefix
    v6([0x2001, 0, 0], 0, 23, false),        // IETF Protocol Assignments
    v6([0x2001, 0, 0], 0, 32, false),        // TEREDO: N/A
    v6([0x2001, 1, 0], 1, 128, true),        // Port Control Protocol Anycast
    v6([0x2001, 1, 0], 2, 128, true),        // Traversal Using Relays around NAT Anycast
    v6([0x2001, 1, 0], 3, 128, true),        // DNS-SD Service Registration Protocol Anycast
    v6([0x2001, 2, 0], 0, 48, false),        // Benchmarking
    v6([0x2001, 3, 0], 0, 32, true),         // AMT
    v6([0x2001, 4, 0x112], 0, 48, true),     // AS112-v6
    v6([0x2001, 0x10, 0], 0, 28, false),     // Deprecated (previously ORCHID): N/A
    v6([0x2001, 0x20, 0], 0, 28, true),      // ORCHIDv2
    v6([0x2001, 0x30, 0], 0, 28, true),      // Drone Remote ID Protocol Entity Tags (DETs) Prefix
    v6([0x2001, 0xdb8, 0], 0, 32, false),    // Documentation
    v6([0x2620, 0x4f, 0x8000], 0, 48, true), // Direct Delegation AS112 Service
    v6([0x3fff, 0, 0], 0, 20, false),        // Documentation
    v6([0x5f00, 0, 0], 0, 16, false),        // Segment Routing (SRv6) SIDs
    v6([0xfc00, 0, 0], 0, 7, false),         // Unique-Local
    v6([0xfe80, 0, 0], 0, 10, false),        // Link-Local Unicast
    // Not in the registry, because it is no unicast.
    v6([0xff00, 0, 0], 0, 8, false), // Multicast
];

const DUMMY: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 1, 0, 0, 0, 0);

/// Global Unicast of the IANA registry "Internet Protocol Version 6 Address Space"; the rest is reserved or is of a
/// smaller scope, such as the site-local addresses and the IPv4-compatible ones of old.
const UNICAST: Block<Ipv6Addr> = v6([0x2000, 0, 0], 0, 3, true);

/// Whether an address is on the public internet.
pub(crate) fn is_globally_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_reachable_v4(address),
        IpAddr::V6(address) => ipv4_inside(address).map_or_else(|| is_reachable_v6(address), is_reachable_v4),
    }
}

fn is_reachable_v4(address: Ipv4Addr) -> bool {
    let holds = |block: &&Block<Ipv4Addr>| (address.to_bits() ^ block.0.to_bits()).leading_zeros() >= block.1;
    IPV4.iter().filter(holds).max_by_key(|block| block.1).is_none_or(|block| block.2)
}

fn is_reachable_v6(address: Ipv6Addr) -> bool {
    let holds = |block: &&Block<Ipv6Addr>| (address.to_bits() ^ block.0.to_bits()).leading_zeros() >= block.1;
    holds(&&UNICAST) && IPV6.iter().filter(holds).max_by_key(|block| block.1).is_none_or(|block| block.2)
}

/// The IPv4 address that an IPv6 address leads to: IPv4-mapped, of NAT64's well-known prefix, or 6to4.
fn ipv4_inside(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(texts: &str, expected: bool) {
        for text in texts.split_whitespace() {
            assert_eq!(is_globally_reachable(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn the_first_and_last_address_of_each_block_and_their_neighbours() {
        all(
            "0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.1 169.254.169.254",
            false,
        );
        all("172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.8 192.0.0.170 192.0.0.171 192.0.0.255 192.0.2.1", false);
        all("192.88.99.1 192.88.99.2 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255", false);
        all("198.51.100.1 203.0.113.255 224.0.0.1 239.255.255.255 240.0.0.0 255.255.255.255", false);
        all("1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.0.1", true);
        all("172.15.0.1 172.32.0.0 192.0.0.9 192.0.0.10 192.0.1.0 192.0.3.0 192.31.196.1 192.52.193.1", true);
        all("192.88.98.255 192.88.100.0 192.175.48.1 198.17.255.255 198.20.0.0 223.255.255.255", true);
    }

    #[test]
    fn blocks_of_ipv6() {
        all(
            ":: ::1 ::8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b:1::1 64:ff9b:1:ffff::8.8.8.8 64:ff9b:2:: 100::1 100:0:0:1::1",
            false,
        );
        all("2001::1 2001:0:ffff:: 2001:1::4 2001:2:: 2001:5::1 2001:10:: 2001:1f:: 2001:1ff:: 2001:db8::1", false);
        all("3fff::1 3fff:fff::1 4000::1 5f00::1 fc00::1 fdff::1 fe80::1 febf::1 fec0::1 ff02::1 ff0e::1", false);
        all("2000::1 2001:1::1 2001:1::2 2001:1::3 2001:3::1 2001:4:112::1 2001:20::1 2001:2f::1 2001:30::1", true);
        all("2001:3f::1 2001:200::1 2001:db7:: 2001:db9:: 2620:4f:8000::1 2606:4700::1 3ffe::1 3fff:1000::1", true);
    }

    #[test]
    fn an_ipv4_address_inside_decides() {
        all("::ffff:10.0.0.5 64:ff9b::10.0.0.5 64:ff9b::192.0.2.1 2002:a00:5:: 2002:c633:6401::1", false);
        all("::ffff:8.8.8.8 64:ff9b::8.8.8.8 64:ff9b::192.0.0.9 2002:808:808::1", true);
    }

    proptest! {
        #[test]
        fn three_ways_to_write_an_ipv4_address(bits in any::<u32>()) {
            let address = Ipv4Addr::from_bits(bits);
            let expected = is_globally_reachable(address.into());
            let (high, low) = (bits >> 16, bits & 0xffff);
            for text in [format!("::ffff:{address}"), format!("64:ff9b::{address}"), format!("2002:{high:x}:{low:x}::1")] {
                prop_assert_eq!(is_globally_reachable(text.parse().unwrap()), expected);
            }
        }
    }
}
