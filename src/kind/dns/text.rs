//! Records as text, in the form that the Go library miekg/dns prints: the regular expressions of those who come from the blackbox exporter
//! are written for it.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::base::name::ParsedName;
use domain::dep::octseq::Parser;
use domain::base::wire::ParseError;

use super::types::{self, DataPart};

/// A parser of a whole message: names in it may point anywhere before them.
pub(super) type WireParser<'m> = Parser<'m, [u8]>;

/// Why a record cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordError {
    /// It is not what its type says.
    Malformed,
    /// The text of all records is longer than this.
    TooLong,
}

impl From<ParseError> for RecordError {
    fn from(_: ParseError) -> Self {
        Self::Malformed
    }
}

impl From<domain::dep::octseq::ShortInput> for RecordError {
    fn from(_: domain::dep::octseq::ShortInput) -> Self {
        Self::Malformed
    }
}

type Written = Result<(), RecordError>;

/// What a record says beside its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordFacts {
    pub(super) number: u16,
    pub(super) seconds_to_live: u32,
    /// The serial number of a SOA record.
    pub(super) serial: Option<u32>,
}

/// Reads one record and adds its text to `out`, which may not become longer than `longest`.
pub(super) fn write_record(
    parser: &mut WireParser<'_>,
    out: &mut String,
    longest: usize,
) -> Result<RecordFacts, RecordError> {
    let mut text = RecordText { out, longest };
    let owner = ParsedName::parse_ref(parser)?;
    let number = parser.parse_u16_be()?;
    let class = parser.parse_u16_be()?;
    let seconds_to_live = parser.parse_u32_be()?;
    let length = parser.parse_u16_be()?;
    let mut data = parser.parse_parser(usize::from(length))?;
    let serial = if number == types::SOA && length > 0 { Some(serial(data)?) } else { None };
    if number == types::OPT {
        text.edns(class, seconds_to_live, &mut data)?;
    } else {
        text.record(&owner, number, class, seconds_to_live, &mut data)?;
    }
    if data.remaining() > 0 {
        return Err(RecordError::Malformed);
    }
    Ok(RecordFacts { number, seconds_to_live, serial })
}

fn serial(mut data: WireParser<'_>) -> Result<u32, RecordError> {
    ParsedName::parse_ref(&mut data)?;
    ParsedName::parse_ref(&mut data)?;
    Ok(data.parse_u32_be()?)
}

/// The text that is written.
struct RecordText<'t> {
    out: &'t mut String,
    longest: usize,
}

/// What a formatter of a `String` cannot fail with.
macro_rules! put {
    ($text:expr, $($format:tt)+) => { write!($text.out, $($format)+).map_err(|_| RecordError::TooLong)? };
}

impl RecordText<'_> {
    /// `name<TAB>ttl<TAB>class<TAB>type<TAB>data`.
    fn record(
        &mut self,
        owner: &ParsedName<&[u8]>,
        number: u16,
        class: u16,
        seconds_to_live: u32,
        data: &mut WireParser<'_>,
    ) -> Written {
        if number == types::NULL {
            put!(self, ";");
        }
        self.name(owner)?;
        let Some(fields) = types::record_type(number).and_then(|known| known.data) else {
            put!(self, "\t{seconds_to_live}\tCLASS{class}\tTYPE{number}\t\\# {} ", data.remaining());
            return self.rest_in_hex(data, false);
        };
        put!(self, "\t{seconds_to_live}\t{}\t{}\t", types::class_name(class), types::type_name(number));
        if number == types::NULL {
            let rest = rest(data)?;
            return self.escaped(rest, |_| false);
        }
        if data.remaining() == 0 {
            return Ok(());
        }
        for (at, field) in fields.iter().enumerate() {
            // These write a space before each of their items.
            if at > 0 && !matches!(field, DataPart::Types | DataPart::Names | DataPart::ServiceParameters) {
                put!(self, " ");
            }
            self.field(*field, data)?;
        }
        Ok(())
    }

    fn field(&mut self, field: DataPart, data: &mut WireParser<'_>) -> Written {
        match field {
            DataPart::Number8 => put!(self, "{}", data.parse_u8()?),
            DataPart::Number16 => put!(self, "{}", data.parse_u16_be()?),
            DataPart::Number32 => put!(self, "{}", data.parse_u32_be()?),
            DataPart::Name => self.name(&ParsedName::parse_ref(data)?)?,
            DataPart::Names => {
                while data.remaining() > 0 {
                    put!(self, " ");
                    self.name(&ParsedName::parse_ref(data)?)?;
                }
            }
            DataPart::SecondText if data.remaining() == 0 => put!(self, "\"\""),
            DataPart::Text | DataPart::SecondText => self.quoted_text(data)?,
            DataPart::Texts => {
                let mut space = "";
                while data.remaining() > 0 {
                    put!(self, "{space}");
                    self.quoted_text(data)?;
                    space = " ";
                }
            }
            DataPart::PlainText => {
                let text = short_bytes(data)?;
                self.escaped(text, is_quoted_special)?;
            }
            DataPart::Octets => {
                let octets = rest(data)?;
                self.quoted(octets)?;
            }
            DataPart::Address4 => put!(self, "{}", address4(data)?),
            DataPart::Address6 => put!(self, "{}", address6(data)?),
            DataPart::Hex => self.rest_in_hex(data, false)?,
            DataPart::UpperHex => self.rest_in_hex(data, true)?,
            DataPart::LongHex => self.long_hex(data)?,
            DataPart::Base64 => STANDARD.encode_string(rest(data)?, self.out),
            DataPart::Salt => match short_bytes(data)? {
                [] => put!(self, "-"),
                salt => self.hex(salt, true)?,
            },
            DataPart::Base32 => self.base32(short_bytes(data)?),
            DataPart::Time => self.time(data.parse_u32_be()?)?,
            DataPart::Type => put!(self, "{}", types::type_name(data.parse_u16_be()?)),
            DataPart::Types => self.bitmap(data)?,
            DataPart::CertificateType => {
                let number = data.parse_u16_be()?;
                match types::certificate_type(number) {
                    Some(name) => put!(self, "{name}"),
                    None => put!(self, "{number}"),
                }
            }
            DataPart::Algorithm => {
                let number = data.parse_u8()?;
                match types::algorithm(number) {
                    Some(name) => put!(self, "{name}"),
                    None => put!(self, "{number}"),
                }
            }
            DataPart::Groups => {
                let [a, b, c, d] = groups(data)?;
                put!(self, "{a:04x}:{b:04x}:{c:04x}:{d:04x}");
            }
            DataPart::UpperGroups => {
                let [a, b, c, d] = groups(data)?;
                put!(self, "{a:04X}:{b:04X}:{c:04X}:{d:04X}");
            }
            DataPart::Letters(length) => {
                for at in 0..length {
                    put!(self, "{}{:02x}", if at == 0 { "" } else { "-" }, data.parse_u8()?);
                }
            }
            DataPart::Location => self.location(data)?,
            DataPart::Prefixes => self.prefixes(data)?,
            DataPart::PublicKeyOfHost => {
                let tag_length = usize::from(data.parse_u8()?);
                let algorithm = data.parse_u8()?;
                let key_length = usize::from(data.parse_u16_be()?);
                put!(self, "{algorithm} ");
                self.hex(data.parse_octets(tag_length)?, false)?;
                put!(self, " ");
                STANDARD.encode_string(data.parse_octets(key_length)?, self.out);
            }
            DataPart::Option4And6 => {
                let (kind, algorithm) = (data.parse_u8()?, data.parse_u8()?);
                put!(self, "{kind} {algorithm} ");
                self.gateway(kind, data)?;
            }
            DataPart::Relay => {
                let kind = data.parse_u8()?;
                put!(self, "{} {} ", kind >> 7, kind & 0x7f);
                self.gateway(kind & 0x7f, data)?;
            }
            DataPart::ServiceParameters => self.service_parameters(data)?,
        }
        if self.out.len() > self.longest { Err(RecordError::TooLong) } else { Ok(()) }
    }

    /// A name with its last dot. Bytes that mean something in a zone file have a backslash before them, those that cannot be printed are
    /// numbers.
    fn name(&mut self, name: &ParsedName<&[u8]>) -> Written {
        if name.is_root() {
            put!(self, ".");
            return Ok(());
        }
        for label in name.iter().filter(|label| !label.is_root()) {
            self.escaped(label.as_slice(), |byte| br#". '@;()"\"#.contains(&byte))?;
            put!(self, ".");
        }
        if self.out.len() > self.longest { Err(RecordError::TooLong) } else { Ok(()) }
    }

    fn escaped(&mut self, bytes: &[u8], is_special: impl Fn(u8) -> bool) -> Written {
        for byte in bytes {
            match byte {
                special if is_special(*special) => put!(self, "\\{}", char::from(*special)),
                b' '..=b'~' => self.out.push(char::from(*byte)),
                _ => put!(self, "\\{byte:03}"),
            }
        }
        Ok(())
    }

    fn quoted(&mut self, bytes: &[u8]) -> Written {
        put!(self, "\"");
        self.escaped(bytes, is_quoted_special)?;
        put!(self, "\"");
        Ok(())
    }

    fn quoted_text(&mut self, data: &mut WireParser<'_>) -> Written {
        let text = short_bytes(data)?;
        self.quoted(text)
    }

    fn hex(&mut self, bytes: &[u8], is_upper: bool) -> Written {
        for byte in bytes {
            if is_upper {
                put!(self, "{byte:02X}");
            } else {
                put!(self, "{byte:02x}");
            }
        }
        Ok(())
    }

    fn rest_in_hex(&mut self, data: &mut WireParser<'_>, is_upper: bool) -> Written {
        let bytes = rest(data)?;
        self.hex(bytes, is_upper)
    }

    fn long_hex(&mut self, data: &mut WireParser<'_>) -> Written {
        const PIECE: usize = 512;
        let mut bytes = rest(data)?;
        while bytes.len() >= PIECE {
            let (piece, others) = bytes.split_at(PIECE);
            self.hex(piece, false)?;
            put!(self, " ");
            bytes = others;
        }
        self.hex(bytes, false)
    }

    /// Base32 with the extended hexadecimal alphabet, without padding.
    fn base32(&mut self, bytes: &[u8]) {
        const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHIJKLMNOPQRSTUV";
        for chunk in bytes.chunks(5) {
            let bits = (0..5).fold(0_u64, |bits, at| bits << 8 | u64::from(chunk.get(at).copied().unwrap_or(0)));
            for digit in 0..(chunk.len() * 8).div_ceil(5) {
                let value = bits >> (35 - 5 * digit) & 31;
                let digit = usize::try_from(value).ok().and_then(|value| DIGITS.get(value));
                self.out.extend(digit.map(|digit| char::from(*digit)));
            }
        }
    }

    fn time(&mut self, seconds: u32) -> Written {
        let at = jiff::Timestamp::from_second(i64::from(seconds)).map_err(|_| RecordError::Malformed)?;
        put!(self, "{}", at.strftime("%Y%m%d%H%M%S"));
        Ok(())
    }

    fn bitmap(&mut self, data: &mut WireParser<'_>) -> Written {
        let mut last = None;
        while data.remaining() > 0 {
            let (window, length) = (data.parse_u8()?, data.parse_u8()?);
            if last >= Some(window) || !(1..=32).contains(&length) {
                return Err(RecordError::Malformed);
            }
            last = Some(window);
            for (byte, bits) in (0_u16..).zip(data.parse_octets(usize::from(length))?) {
                for bit in (0..8).filter(|bit| bits & (0x80 >> bit) != 0) {
                    put!(self, " {}", types::type_name(u16::from(window) * 256 + byte * 8 + bit));
                }
            }
            if self.out.len() > self.longest {
                return Err(RecordError::TooLong);
            }
        }
        Ok(())
    }

    fn gateway(&mut self, kind: u8, data: &mut WireParser<'_>) -> Written {
        match kind {
            0 => put!(self, "."),
            1 => put!(self, "{}", address4(data)?),
            2 => put!(self, "{}", address6(data)?),
            3 => self.name(&ParsedName::parse_ref(data)?)?,
            _ => return Err(RecordError::Malformed),
        }
        Ok(())
    }

    fn prefixes(&mut self, data: &mut WireParser<'_>) -> Written {
        let mut space = "";
        while data.remaining() > 0 {
            let (family, prefix, length) = (data.parse_u16_be()?, data.parse_u8()?, data.parse_u8()?);
            let bytes = data.parse_octets(usize::from(length & 0x7f))?;
            let mut address = [0; 16];
            let size = match family {
                1 => 4,
                2 => 16,
                _ => return Err(RecordError::Malformed),
            };
            if usize::from(prefix) > 8 * size || bytes.len() > size || bytes.last() == Some(&0) {
                return Err(RecordError::Malformed);
            }
            for (to, from) in address.iter_mut().zip(bytes) {
                *to = *from;
            }
            let [a, b, c, d, ..] = address;
            put!(self, "{space}{}{family}:", if length & 0x80 == 0 { "" } else { "!" });
            if family == 1 {
                put!(self, "{}", Ipv4Addr::new(a, b, c, d));
            } else {
                put!(self, "{}", Ipv6Addr::from(address));
            }
            put!(self, "/{prefix}");
            space = " ";
        }
        Ok(())
    }

    fn location(&mut self, data: &mut WireParser<'_>) -> Written {
        const EQUATOR: u32 = 1 << 31;
        const DEGREE: u32 = 60 * MINUTE;
        const MINUTE: u32 = 60 * 1000;
        let _version = data.parse_u8()?;
        let sizes = [data.parse_u8()?, data.parse_u8()?, data.parse_u8()?];
        for [far, near] in [["N", "S"], ["E", "W"]] {
            let angle = data.parse_u32_be()?;
            let side = if angle > EQUATOR { far } else { near };
            let angle = angle.abs_diff(EQUATOR);
            let (degrees, minutes, rest) = (angle / DEGREE, angle % DEGREE / MINUTE, angle % MINUTE);
            put!(self, "{degrees:02} {minutes:02} {}.{:03} {side} ", rest / 1000, rest % 1000);
        }
        let altitude = data.parse_u32_be()?;
        let metres = f64::from(altitude) / 100.0 - 100_000.0;
        if altitude.is_multiple_of(100) {
            put!(self, "{metres:.0}m");
        } else {
            put!(self, "{metres:.2}m");
        }
        for size in sizes {
            let (mantissa, exponent) = (size >> 4, usize::from(size & 15));
            match exponent {
                0 => put!(self, " 0.{mantissa:02}m"),
                1 => put!(self, " 0.{:02}m", mantissa * 10),
                _ => put!(self, " {mantissa}{}m", "0".repeat(exponent - 2)),
            }
        }
        Ok(())
    }

    fn service_parameters(&mut self, data: &mut WireParser<'_>) -> Written {
        let mut last = None;
        while data.remaining() > 0 {
            let (key, length) = (data.parse_u16_be()?, data.parse_u16_be()?);
            if last >= Some(key) || key == u16::MAX {
                return Err(RecordError::Malformed);
            }
            last = Some(key);
            let mut value = data.parse_parser(usize::from(length))?;
            match types::service_parameter(key) {
                Some(name) => put!(self, " {name}=\""),
                None => put!(self, " key{key}=\""),
            }
            self.service_parameter(key, &mut value)?;
            put!(self, "\"");
        }
        Ok(())
    }

    fn service_parameter(&mut self, key: u16, value: &mut WireParser<'_>) -> Written {
        let mut comma = "";
        match key {
            0 => {
                while value.remaining() > 0 {
                    let key = value.parse_u16_be()?;
                    match types::service_parameter(key) {
                        Some(name) => put!(self, "{comma}{name}"),
                        None if key == u16::MAX => put!(self, "{comma}"),
                        None => put!(self, "{comma}key{key}"),
                    }
                    comma = ",";
                }
            }
            1 => {
                while value.remaining() > 0 {
                    put!(self, "{comma}");
                    for byte in short_bytes(value)? {
                        match byte {
                            b',' | b'\\' => put!(self, "\\\\\\{byte:03}"),
                            _ => self.escaped(std::slice::from_ref(byte), is_parameter_special)?,
                        }
                    }
                    comma = ",";
                }
            }
            2 | 8 if value.remaining() > 0 => return Err(RecordError::Malformed),
            2 | 8 => {}
            3 => put!(self, "{}", value.parse_u16_be()?),
            4 | 6 if value.remaining() == 0 => return Err(RecordError::Malformed),
            4 => {
                while value.remaining() > 0 {
                    put!(self, "{comma}{}", address4(value)?);
                    comma = ",";
                }
            }
            6 => {
                while value.remaining() > 0 {
                    put!(self, "{comma}{}", address6(value)?);
                    comma = ",";
                }
            }
            5 => STANDARD.encode_string(rest(value)?, self.out),
            _ => {
                let bytes = rest(value)?;
                self.escaped(bytes, |byte| byte == b'\\' || is_parameter_special(byte))?;
            }
        }
        if value.remaining() > 0 { Err(RecordError::Malformed) } else { Ok(()) }
    }

    /// The pseudo-record of EDNS: its class is the size of datagrams that the server takes, its time to live are flags.
    fn edns(&mut self, size: u16, flags: u32, data: &mut WireParser<'_>) -> Written {
        const DNSSEC_OK: u32 = 0x8000;
        const COMPACT_OK: u32 = 0x4000;
        let version = flags >> 16 & 0xff;
        put!(self, "\n;; OPT PSEUDOSECTION:\n; EDNS: version {version}; flags:");
        if flags & DNSSEC_OK != 0 {
            put!(self, " do");
        }
        if flags & COMPACT_OK != 0 {
            put!(self, " co");
        }
        put!(self, "; ");
        let reserved = flags & 0x3fff;
        if reserved != 0 {
            put!(self, "MBZ: 0x{reserved:04x}, ");
        }
        put!(self, "udp: {size}");
        while data.remaining() > 0 {
            let (code, length) = (data.parse_u16_be()?, data.parse_u16_be()?);
            let mut value = data.parse_parser(usize::from(length))?;
            self.edns_option(code, &mut value)?;
        }
        Ok(())
    }

    fn edns_option(&mut self, code: u16, value: &mut WireParser<'_>) -> Written {
        const COOKIE: u16 = 10;
        const PADDING: u16 = 12;
        const EXTENDED_ERROR: u16 = 15;
        match code {
            COOKIE => put!(self, "\n; COOKIE: "),
            PADDING => {
                put!(self, "\n; PADDING: ");
                return self.rest_in_hex(value, true);
            }
            EXTENDED_ERROR => {
                let error = value.parse_u16_be()?;
                put!(self, "\n; EDE: {error}");
                if let Some(name) = types::extended_error(error) {
                    put!(self, " ({name})");
                }
                put!(self, ": (");
                let text = rest(value)?;
                self.escaped(text, |_| false)?;
                put!(self, ")");
            }
            _ => put!(self, "\n; LOCAL OPT: {code}:0x"),
        }
        self.rest_in_hex(value, false)
    }
}

/// A byte that has a backslash before it in a text between quotes.
const fn is_quoted_special(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\')
}

/// The same in a parameter of an SVCB record.
const fn is_parameter_special(byte: u8) -> bool {
    matches!(byte, b'"' | b';' | b' ')
}

fn rest<'m>(data: &mut WireParser<'m>) -> Result<&'m [u8], RecordError> {
    Ok(data.parse_octets(data.remaining())?)
}

/// A length and so many bytes.
fn short_bytes<'m>(data: &mut WireParser<'m>) -> Result<&'m [u8], RecordError> {
    let length = data.parse_u8()?;
    Ok(data.parse_octets(usize::from(length))?)
}

fn address4(data: &mut WireParser<'_>) -> Result<Ipv4Addr, RecordError> {
    Ok(data.parse_u32_be()?.into())
}

fn address6(data: &mut WireParser<'_>) -> Result<Ipv6Addr, RecordError> {
    let mut octets = [0; 16];
    data.parse_buf(&mut octets)?;
    Ok(octets.into())
}

fn groups(data: &mut WireParser<'_>) -> Result<[u16; 4], RecordError> {
    Ok([data.parse_u16_be()?, data.parse_u16_be()?, data.parse_u16_be()?, data.parse_u16_be()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    fn written(wire: &[u8]) -> Result<(String, usize), RecordError> {
        let mut text = String::new();
        let mut parser = Parser::from_ref(wire);
        write_record(&mut parser, &mut text, 1 << 20)?;
        Ok((text, parser.remaining()))
    }

    #[test]
    fn every_type_reads_as_in_miekg_dns() {
        let mut seen = std::collections::BTreeSet::new();
        for line in include_str!("records.txt").lines().filter(|line| !line.starts_with('#')) {
            let (wire, text) = line.split_once(' ').unwrap();
            let wire = unhex(wire);
            let expected: String = serde_json::from_str(text).unwrap();
            assert_eq!(written(&wire), Ok((expected.clone(), 0)), "{line}");
            seen.extend(expected.split('\t').nth(3).map(str::to_owned));
        }
        let described = types::TYPES.iter().filter(|known| known.data.is_some() && known.number != types::NULL);
        let missing: Vec<&str> = described.map(|known| known.name).filter(|name| !seen.contains(*name)).collect();
        assert_eq!(missing, Vec::<&str>::new());
    }

    #[test]
    fn a_few_records_read_as_a_person_expects() {
        let of = |data: &[u8]| {
            let mut wire = unhex("076578616d706c6503636f6d00");
            wire.extend_from_slice(data);
            written(&wire).unwrap().0
        };
        assert_eq!(of(b"\0\x01\0\x01\0\0\x01\x2c\0\x04\xc0\0\x02\x01"), "example.com.\t300\tIN\tA\t192.0.2.1");
        assert_eq!(of(b"\0\x10\0\x01\0\0\0\x3c\0\x06\x02hi\x02yo"), "example.com.\t60\tIN\tTXT\t\"hi\" \"yo\"");
        assert_eq!(of(b"\0\x0a\0\x01\0\0\0\x3c\0\x03a\0b"), ";example.com.\t60\tIN\tNULL\ta\\000b");
        assert_eq!(of(b"\0\xff\0\x01\0\0\0\x3c\0\x01a"), "example.com.\t60\tCLASS1\tTYPE255\t\\# 1 61");
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let record = |number: u8, length: u8, data: &[u8]| {
            let mut wire = vec![0, 0, number, 0, 1, 0, 0, 0, 1, 0, length];
            wire.extend_from_slice(data);
            written(&wire).map(|(text, _)| text)
        };
        let malformed = Err(RecordError::Malformed);
        assert_eq!(record(1, 3, &[1, 2, 3]), malformed, "an address is too short");
        assert_eq!(record(1, 5, &[1, 2, 3, 4, 5]), malformed, "or too long");
        assert_eq!(record(1, 4, &[1, 2, 3]), malformed, "or cut off");
        assert_eq!(record(16, 2, &[5, b'a']), malformed, "a text is longer than its record");
        assert_eq!(record(2, 2, &[0xc0, 11]), malformed, "a name points to itself");
        assert_eq!(record(2, 2, &[0xc0, 200]), malformed, "or behind the message");
        assert_eq!(record(47, 4, &[0, 0, 0, 1]), malformed, "a bitmap is empty");
        assert_eq!(record(47, 8, &[0, 1, 1, 0x80, 0, 1, 0x80, 0]), malformed, "or its windows are out of order");
        assert_eq!(record(64, 7, &[0, 1, 0, 0, 3, 0, 0]), malformed, "a port has no number");
        assert_eq!(record(42, 5, &[0, 1, 33, 1, 1]), malformed, "a prefix is longer than an address");
        assert_eq!(record(45, 3, &[1, 9, 1]), malformed, "there is no such gateway");
    }

    #[test]
    fn a_text_that_is_too_long_is_not_written_to_its_end() {
        // Names that are only pointers to a long name: 2 bytes become 1,000.
        let mut wire = vec![63];
        for _ in 0..3 {
            wire.extend_from_slice(&[0xff; 63]);
            wire.push(63);
        }
        wire.extend_from_slice(&[0xff; 61]);
        wire[192] = 61;
        wire.push(0);
        let start = wire.len();
        let servers = 30_000;
        wire.extend_from_slice(&[0, 0, 55, 0, 1, 0, 0, 0, 1]);
        wire.extend_from_slice(&u16::try_from(4 + 2 * servers).unwrap().to_be_bytes());
        wire.extend_from_slice(&[0, 1, 0, 0]);
        wire.extend(std::iter::repeat_n([0xc0, 0], servers).flatten());
        let mut text = String::new();
        let mut parser = Parser::from_ref(&wire[..]);
        parser.advance(start).unwrap();
        assert_eq!(write_record(&mut parser, &mut text, 100_000), Err(RecordError::TooLong));
        assert!(text.len() < 110_000, "{}", text.len());
    }
}
