//! The messages of the health checking protocol in the encoding of Protocol Buffers, and the frames that carry them. Pure.

/// What a server says of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServingStatus {
    /// It does not know.
    Unknown,
    /// It serves.
    Serving,
    /// It does not.
    NotServing,
    /// It has no such service: used by servers that stream their health only.
    ServiceUnknown,
}

impl ServingStatus {
    /// Every status, in the order of the protocol.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Serving, Self::NotServing, Self::ServiceUnknown];

    /// The word of the protocol.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Serving => "SERVING",
            Self::NotServing => "NOT_SERVING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

/// Bytes before a message: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;

/// A request about `service`, in its frame.
pub(super) fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(service.len() + 8);
    if !service.is_empty() {
        message.push(0x0a); // field 1, a text
        let mut length = service.len();
        while length >= 0x80 {
            message.push(low_bits(length) | 0x80);
            length >>= 7;
        }
        message.push(low_bits(length));
        message.extend(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &message].concat()
}

/// The lowest seven bits.
fn low_bits(number: usize) -> u8 {
    number.to_le_bytes()[0] & 0x7f
}

/// The status in the body of an answer: one frame with one message. The error is what is wrong with it.
pub fn serving_status(body: &[u8]) -> Result<ServingStatus, &'static str> {
    let Some((&[compressed, a, b, c, d], message)) = body.split_first_chunk::<PREFIX>() else {
        return Err(if body.is_empty() { "no message" } else { "the beginning of a message" });
    };
    if compressed != 0 {
        return Err("a compressed message, which was not asked for");
    }
    let length = u32::from_be_bytes([a, b, c, d]);
    match u64::from(length).cmp(&(message.len() as u64)) {
        std::cmp::Ordering::Greater => return Err("a part of a message"),
        std::cmp::Ordering::Less => return Err("more than one message"),
        std::cmp::Ordering::Equal => {}
    }
    let number = status_number(message).ok_or("a message that is not in the encoding of Protocol Buffers")?;
    let index = usize::try_from(number).ok();
    index.and_then(|index| ServingStatus::ALL.get(index)).copied().ok_or("a health status that does not exist")
}

/// Field 1 of a message, 0 where it is left out.
fn status_number(mut message: &[u8]) -> Option<i32> {
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let field = key >> 3;
        if field == 0 || field > 0x1fff_ffff {
            return None;
        }
        match key & 7 {
            0 => {
                let value = varint(&mut message)?;
                if field == 1 {
                    #[expect(clippy::cast_possible_truncation, reason = "enumerations have 32 bits, the rest is their sign")]
                    let number = value as i32;
                    status = number;
                }
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// A number in groups of seven bits, the lowest first.
fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(message: &[u8]) -> Vec<u8> {
        [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }

    #[test]
    fn a_request_has_the_name_of_the_service() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = request(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
        assert_eq!(long.len(), 5 + 303);
    }

    #[test]
    fn every_status_is_read_and_other_fields_are_passed_over() {
        let status = |message: &[u8]| serving_status(&frame(message));
        assert_eq!(status(&[]), Ok(ServingStatus::Unknown), "0 is left out");
        for (number, expected) in (0..).zip(ServingStatus::ALL) {
            assert_eq!(status(&[8, number]), Ok(expected));
        }
        assert_eq!(status(&[8, 0x81, 0]), Ok(ServingStatus::Serving), "a number that is longer than it need be");
        assert_eq!(status(&[0x12, 2, 9, 9, 8, 1, 0x19, 0, 0, 0, 0, 0, 0, 0, 0, 0x25, 0, 0, 0, 0]), Ok(ServingStatus::Serving));
        assert_eq!(status(&[8, 2, 8, 1]), Ok(ServingStatus::Serving), "the last one counts");
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for body in [&[][..], &[0], &[0, 0, 0, 0], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 2, 8], &[0, 0, 0, 0, 0, 0]] {
            assert!(serving_status(body).is_err(), "{body:?}");
        }
        for message in [&[8][..], &[0], &[8, 0x80], &[8, 4], &[0x0b], &[0x12, 9, 0], &[0xff; 11], &[8, 0xff, 0xff, 0xff, 0xff, 0x0f]] {
            assert!(serving_status(&frame(message)).is_err(), "{message:?}");
        }
    }
}
