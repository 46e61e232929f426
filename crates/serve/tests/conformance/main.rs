//! One list of requests with their answers, asked of the embedded server and of nginx with the printed configuration.

#![cfg(test)]

mod answers;
mod kept_serials;
mod odd_requests;
mod support;
mod switch;
