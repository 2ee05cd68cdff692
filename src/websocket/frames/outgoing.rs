//! The few frames that stickyd sends itself, and the close codes it may use. They go to clients only, so they are never
//! masked, and never compressed.

/// The largest payload of a control frame (RFC 6455 §5.5).
pub(crate) const CONTROL_MAX: usize = 125;

/// A control frame from stickyd to a client, ready to be written: FIN, RSV1–3 = 0, unmasked (RFC 6455 §5.1, §5.5).
#[derive(Clone, Debug)]
pub struct ControlFrame {
    bytes: [u8; 2 + CONTROL_MAX],
    /// Length of the frame within `bytes`.
    length: u8,
}

impl ControlFrame {
    /// Builds a frame with this opcode. The payload is both parts in sequence, cut off at 125 bytes.
    fn new(opcode: u8, parts: [&[u8]; 2]) -> Self {
        let mut bytes = [0; 2 + CONTROL_MAX];
        let [first, second, body @ ..] = &mut bytes;
        let mut length = 0;
        for (slot, octet) in body.iter_mut().zip(parts.into_iter().flatten()) {
            *slot = *octet;
            length += 1;
        }
        *first = 0x80 | opcode;
        *second = length;
        Self { bytes, length: 2 + length }
    }
}

impl AsRef<[u8]> for ControlFrame {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// Builds a Close frame for a client (RFC 6455 §5.5.1). The reason is cut at a character boundary, so that the payload
/// has at most 125 bytes.
pub fn close_frame(code: CloseCode, reason: &str) -> ControlFrame {
    let cut = reason.floor_char_boundary(CONTROL_MAX - 2);
    ControlFrame::new(0x8, [&code.0.to_be_bytes(), reason.get(..cut).unwrap_or_default().as_bytes()])
}

/// Builds a Ping frame for a client (RFC 6455 §5.5.2). A payload of more than 125 bytes does not compile. The client's
/// Pong is forwarded to the worker, where an unsolicited Pong is legal (§5.5.3).
pub fn ping_frame<const N: usize>(payload: &[u8; N]) -> ControlFrame {
    const { assert!(N <= CONTROL_MAX, "a control frame carries at most 125 bytes") };
    ControlFrame::new(0x9, [payload, &[]])
}

/// Builds a text message for a client in one frame: FIN, RSV1–3 = 0, unmasked (RFC 6455 §5.6).
pub(crate) fn text_frame(text: &str) -> Vec<u8> {
    let length = text.len();
    let mut bytes = Vec::with_capacity(10 + length);
    bytes.push(super::FIN_TEXT);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => bytes.push(short),
        (_, Ok(middle)) => {
            bytes.push(126);
            bytes.extend(middle.to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(text.as_bytes());
    bytes
}

/// A status code that a Close frame may carry (RFC 6455 §7.4 and its IANA registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: normal closure, the purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the server is going away.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1008: the client violates a policy.
    pub const POLICY: Self = Self(1008);
    /// 1012: the service is restarting, and the client may reconnect.
    pub const SERVICE_RESTART: Self = Self(1012);
    /// 1013: the server is overloaded, and the client should try again later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// Checks a code: 1000–1003, 1007–1014 and 3000–4999 may be sent. 1014 (bad gateway) is registered but recent: some
    /// clients (tungstenite 0.30) answer it with a protocol error.
    pub const fn new(code: u16) -> Result<Self, CloseCodeError> {
        match code {
            1005 | 1006 | 1015 => Err(CloseCodeError::NeverSent(code)),
            1004 | 1016..=2999 => Err(CloseCodeError::Reserved(code)),
            1000..=4999 => Ok(Self(code)),
            _ => Err(CloseCodeError::OutOfRange(code)),
        }
    }

    /// The code as a number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// Why a number is not a valid [`CloseCode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseCodeError {
    /// The number is below 1000 or above 4999 (RFC 6455 §7.4.2).
    #[error("close code {0} is outside the range 1000 to 4999")]
    OutOfRange(u16),
    /// 1005, 1006 and 1015 are reported by APIs if no code was received, and never sent (RFC 6455 §7.4.1).
    #[error("close code {0} must never be sent: it stands for a close without a code")]
    NeverSent(u16),
    /// 1004 and 1016–2999 are reserved for later versions and extensions of the protocol (RFC 6455 §7.4.2).
    #[error("close code {0} is reserved; applications may use 3000 to 4999")]
    Reserved(u16),
}
