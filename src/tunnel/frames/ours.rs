//! The few frames stickyd says itself, and the codes it may close with. To clients only: never masked, never compressed.

/// The largest payload of a control frame (RFC 6455 §5.5).
pub(super) const CONTROL_MAX: usize = 125;

/// A control frame of ours, ready to be written to a client: FIN, RSV1–3 = 0, unmasked (RFC 6455 §5.1, §5.5).
#[derive(Clone, Debug)]
pub struct ControlFrame {
    bytes: [u8; 2 + CONTROL_MAX],
    /// How many of `bytes` are the frame.
    length: u8,
}

impl ControlFrame {
    /// A header with this opcode; the parts behind each other, cut at 125 bytes, are the payload.
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

/// A Close frame for a client (RFC 6455 §5.5.1). The reason is cut at a character so that the frame keeps to 125 bytes.
pub fn close_frame(code: CloseCode, reason: &str) -> ControlFrame {
    let cut = reason.floor_char_boundary(CONTROL_MAX - 2);
    ControlFrame::new(0x8, [&code.0.to_be_bytes(), reason.get(..cut).unwrap_or_default().as_bytes()])
}

/// A Ping frame for a client (RFC 6455 §5.5.2). A payload of more than 125 bytes does not compile. The client's Pong
/// goes on to the worker, for whom an unasked Pong is legal (§5.5.3).
pub fn ping_frame<const N: usize>(payload: &[u8; N]) -> ControlFrame {
    const { assert!(N <= CONTROL_MAX, "a control frame carries at most 125 bytes") };
    ControlFrame::new(0x9, [payload, &[]])
}

/// A text message of ours for a client, in one frame: FIN, RSV1–3 = 0, unmasked (RFC 6455 §5.6).
pub fn text_frame(text: &str) -> Vec<u8> {
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

/// A status code that may stand in a Close frame (RFC 6455 §7.4 and the IANA registry it founded).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the server goes down.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1012: the service restarts; come again.
    pub const SERVICE_RESTART: Self = Self(1012);
    /// 1013: overloaded; come again later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// Checks a code: 1000–1003, 1007–1014 and 3000–4999 may be sent. 1014 (bad gateway) is registered but young: some
    /// clients (tungstenite 0.30) answer it with a protocol error.
    pub const fn new(code: u16) -> Result<Self, CloseCodeError> {
        match code {
            1005 | 1006 | 1015 => Err(CloseCodeError::NeverSent(code)),
            1004 | 1016..=2999 => Err(CloseCodeError::Reserved(code)),
            1000..=4999 => Ok(Self(code)),
            _ => Err(CloseCodeError::OutOfRange(code)),
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// Why a number is no [`CloseCode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseCodeError {
    /// Below 1000 or above 4999 (RFC 6455 §7.4.2).
    #[error("close code {0} is outside of 1000 to 4999")]
    OutOfRange(u16),
    /// 1005, 1006 and 1015 are what an API says when no code was received (RFC 6455 §7.4.1).
    #[error("close code {0} must never be sent: it stands for a close without a code")]
    NeverSent(u16),
    /// 1004 and 1016–2999 are kept for later versions and extensions of the protocol (RFC 6455 §7.4.2).
    #[error("close code {0} is reserved; applications may use 3000 to 4999")]
    Reserved(u16),
}
