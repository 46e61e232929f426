//! Values that were read lately, in bounded memory.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The values that were used last, up to a number of bytes. The caller that puts one says how large it is.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    most: usize,
    inner: Mutex<Inner<K, V>>,
}

#[derive(Debug)]
struct Inner<K, V> {
    values: HashMap<K, Held<V>>,
    /// The keys by when they were used last.
    uses: BTreeMap<u64, K>,
    next: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Held<V> {
    value: V,
    bytes: usize,
    used: u64,
}

impl<K: Clone + Eq + Hash, V: Clone> Cache<K, V> {
    pub(crate) fn of_bytes(most: usize) -> Self {
        let inner = Inner { values: HashMap::new(), uses: BTreeMap::new(), next: 0, bytes: 0 };
        Self { most, inner: Mutex::new(inner) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut inner = self.lock();
        let Inner { values, uses, next, .. } = &mut *inner;
        let held = values.get_mut(key)?;
        if let Some(key) = uses.remove(&held.used) {
            uses.insert(*next, key);
        }
        held.used = *next;
        *next += 1;
        Some(held.value.clone())
    }

    /// Keeps a value, and forgets the values that were not used for the longest time. A value that is larger than the whole
    /// bound is not kept.
    pub(crate) fn put(&self, key: K, value: V, bytes: usize) {
        if bytes > self.most {
            return;
        }
        let mut inner = self.lock();
        let used = inner.next;
        inner.next += 1;
        inner.bytes += bytes;
        inner.uses.insert(used, key.clone());
        if let Some(before) = inner.values.insert(key, Held { value, bytes, used }) {
            inner.uses.remove(&before.used);
            inner.bytes -= before.bytes;
        }
        while inner.bytes > self.most {
            let Some((_, oldest)) = inner.uses.pop_first() else { break };
            if let Some(held) = inner.values.remove(&oldest) {
                inner.bytes -= held.bytes;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K, V>> {
        // No foreign code runs under the lock, so the cache is whole even after a panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_used_goes_first() {
        let cache = Cache::of_bytes(10);
        cache.put("a", 1, 4);
        cache.put("b", 2, 4);
        assert_eq!(cache.get(&"a"), Some(1));
        cache.put("c", 3, 4);
        assert_eq!([cache.get(&"a"), cache.get(&"b"), cache.get(&"c")], [Some(1), None, Some(3)]);
        cache.put("a", 4, 6);
        assert_eq!([cache.get(&"a"), cache.get(&"c")], [Some(4), Some(3)]);
        cache.put("huge", 5, 11);
        assert_eq!([cache.get(&"a"), cache.get(&"c"), cache.get(&"huge")], [Some(4), Some(3), None]);
        cache.put("all", 6, 10);
        assert_eq!([cache.get(&"a"), cache.get(&"c"), cache.get(&"all")], [None, None, Some(6)]);
    }
}
