//! How an operator has a socket closed: what it is to say, and who is woken for it.

use std::sync::Arc;

use crate::config::Farewell;

/// What a tunnel is told to say, and to end with. One for all that are closed together.
pub type Order = Arc<Farewell>;
