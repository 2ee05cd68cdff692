//! The page for browsers: in a real Chromium, over the bridge of `stickyd page` and over TCP; its files and its
//! pure parts.

mod bridge;
mod files;
mod live;
mod looks;
mod orders;
mod pure;
mod token;
