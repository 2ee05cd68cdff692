//! The rights that stickyd needs in Redis, as `stickyd fleet --acl` prints them.

/// The rights that a user needs in Redis, as a line for its `users.acl`, with `>PASSWORD` to be replaced.
pub(crate) fn acl(user: &str, prefix: &str) -> String {
    /// One line per part, so that each can be read against the code that uses it.
    const COMMANDS: [&str; 8] = [
        // Every connection.
        "+ping +info +time +hello +auth +select +role",
        // A cluster.
        "+cluster|slots +asking",
        // Pins.
        "+get +set +del +expire",
        // Summaries of the stickyds, and keys of TLS tickets.
        "+mget +zadd +zrange +zremrangebyscore",
        // Messages among stickyds.
        "+publish +subscribe +unsubscribe",
        // Orders: answers, and admin states that are kept.
        "+rpush +lpop +hset +hgetall +hdel",
        // Sockets of users, in lists as the answers are.
        "+lrem +lrange +llen",
        // Messages for users that are away, in such lists, too.
        "+multi +exec +lindex +zrem +zcard +hget +hincrby +hlen +hscan",
    ];
    let commands = COMMANDS.join(" ");
    format!("user {user} on >PASSWORD resetkeys ~{prefix}:* resetchannels &{prefix}:* -@all {commands}")
}
