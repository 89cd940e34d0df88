//! What a certificate says, as text. Names are written as Go writes them, since dashboards for the blackbox exporter know them in that form.
//! Whoever made the certificate chose all of it: nothing here may depend on its being sensible.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use x509_parser::der_parser::asn1_rs::{Any, Oid, Tag};
use x509_parser::prelude::{GeneralName, RelativeDistinguishedName, X509Certificate, X509Name, parse_x509_certificate};
use x509_parser::public_key::PublicKey;

use super::messages::named;

/// What a certificate says. Texts are empty where it cannot be parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateSummary {
    /// SHA-256 of the certificate, in lower-case hexadecimal digits.
    pub fingerprint: String,
    /// Whom it belongs to.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The names of hosts that it is for, joined by commas.
    pub dns_names: String,
    /// Its serial number, two lower-case hexadecimal digits for each byte.
    pub serial: String,
    /// The first and the last second of its validity, as Unix time.
    pub validity: Option<(i64, i64)>,
    /// The algorithm of its key, and the length in bits.
    pub key: String,
}

impl CertificateSummary {
    /// Reads a certificate.
    pub fn of(der: &[u8]) -> Self {
        let fingerprint = hex(digest(&SHA256, der).as_ref());
        let Ok((_, certificate)) = parse_x509_certificate(der) else { return Self { fingerprint, ..Self::default() } };
        let serial = certificate.raw_serial();
        let zeros = serial.iter().take_while(|byte| **byte == 0).count();
        let validity = certificate.validity();
        Self {
            fingerprint,
            subject: name(certificate.subject()),
            issuer: name(certificate.issuer()),
            dns_names: dns_names(&certificate),
            serial: hex(serial.get(zeros..).unwrap_or_default()),
            validity: Some((validity.not_before.timestamp(), validity.not_after.timestamp())),
            key: key(&certificate),
        }
    }

    /// All of it in one line, without control characters.
    pub fn line(&self) -> String {
        let Self { fingerprint, subject, issuer, dns_names, serial, validity, key } = self;
        let Some((from, until)) = validity else {
            return format!("a certificate that cannot be parsed; SHA-256 {fingerprint}");
        };
        let mut line = format!("{}; valid from {} until {}; ", or_none(subject), date(*from), date(*until));
        if subject == issuer {
            line.push_str("issued by itself");
        } else {
            let _ = write!(line, "issued by {}", or_none(issuer));
        }
        let _ = write!(line, "; {key}; serial number {serial}; SHA-256 {fingerprint}");
        if !dns_names.is_empty() {
            let _ = write!(line, "; for {}", dns_names.replace(',', ", "));
        }
        line.replace(char::is_control, "\u{FFFD}")
    }
}

fn or_none(name: &str) -> &str {
    if name.is_empty() { "no name" } else { name }
}

fn date(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| format!("second {seconds}"), |at| at.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn dns_names(certificate: &X509Certificate<'_>) -> String {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return String::new() };
    let names = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    names.collect::<Vec<_>>().join(",")
}

fn key(certificate: &X509Certificate<'_>) -> String {
    let key = certificate.public_key();
    let algorithm = named(&key.algorithm.algorithm, "a key");
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("{algorithm} of {} bits", rsa.key_size()),
        Ok(PublicKey::EC(point)) => format!("{algorithm} of {} bits", point.key_size()),
        _ => algorithm,
    }
}

/// The attributes that Go knows, in its order of a name: the one written first is the last one here.
const KNOWN: [(u8, &str); 9] = [
    (6, "C"),
    (10, "O"),
    (11, "OU"),
    (7, "L"),
    (8, "ST"),
    (9, "STREET"),
    (17, "POSTALCODE"),
    (3, "CN"),
    (5, "SERIALNUMBER"),
];

/// Attributes of which a name has one: the last one counts.
const SINGLE: [u8; 2] = [3, 5];

/// A name as `pkix.Name.String` of Go writes it: what it knows in a fixed order, the rest at the end.
fn name(name: &X509Name<'_>) -> String {
    let mut others = Vec::new();
    let mut known: [Vec<String>; KNOWN.len()] = Default::default();
    // Go reads a name up to the first part that is empty.
    let parts = name.iter_rdn().take_while(|part| part.iter().next().is_some());
    for attribute in parts.flat_map(RelativeDistinguishedName::iter) {
        let kind = attribute.attr_type();
        let value = text(attribute.attr_value());
        let at = last_arc(kind).and_then(|arc| KNOWN.iter().position(|(known, _)| *known == arc));
        match at.and_then(|at| known.get_mut(at).zip(KNOWN.get(at))) {
            Some((values, (arc, _))) => {
                if SINGLE.contains(arc) {
                    values.clear();
                }
                values.push(value);
            }
            None => others.push(other(kind, &value)),
        }
    }
    let known = known.iter().zip(KNOWN).rev().filter(|(values, _)| values.iter().any(|value| !value.is_empty()));
    let known = known.map(|(values, (_, kind))| {
        values.iter().map(|value| format!("{kind}={}", escaped(value))).collect::<Vec<_>>().join("+")
    });
    known.chain(others.into_iter().rev()).collect::<Vec<_>>().join(",")
}

/// The last number of an identifier below 2.5.4: the attributes of X.520.
fn last_arc(kind: &Oid<'_>) -> Option<u8> {
    match kind.as_bytes() {
        [0x55, 4, arc] => Some(*arc),
        _ => None,
    }
}

/// An attribute that has no name: its value as Go encodes it again.
fn other(kind: &Oid<'_>, value: &str) -> String {
    let printable = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"'()+,-./ :=?".contains(&byte));
    let tag = if printable { Tag::PrintableString } else { Tag::Utf8String };
    #[expect(clippy::cast_possible_truncation, reason = "a tag of a text is below 31")]
    let mut der = vec![tag.0 as u8];
    match u8::try_from(value.len()) {
        Ok(length) if length < 0x80 => der.push(length),
        _ => {
            let length = value.len().to_be_bytes();
            let zeros = length.iter().take_while(|byte| **byte == 0).count();
            #[expect(clippy::cast_possible_truncation, reason = "a length has at most 8 bytes")]
            der.push(0x80 | (length.len() - zeros) as u8);
            der.extend(length.get(zeros..).unwrap_or_default());
        }
    }
    der.extend(value.as_bytes());
    format!("{}=#{}", kind.to_id_string(), hex(&der))
}

/// A value as text.
fn text(value: &Any<'_>) -> String {
    let bytes = value.data;
    match value.tag() {
        Tag::BmpString => {
            let (units, _) = bytes.as_chunks::<2>();
            char::decode_utf16(units.iter().map(|unit| u16::from_be_bytes(*unit)))
                .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        }
        Tag::T61String => bytes.iter().copied().map(char::from).collect(), // in practice it is Latin-1
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// A value in which the characters are escaped that mean something in a name.
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for (at, c) in value.char_indices() {
        let special = match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => true,
            ' ' => at == 0 || at + 1 == value.len(),
            '#' => at == 0,
            _ => false,
        };
        if special {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SerialNumber, date_time_ymd};

    use super::*;

    fn summary(change: impl FnOnce(&mut CertificateParams)) -> CertificateSummary {
        let mut params = CertificateParams::new(["a.example.com".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 1));
        change(&mut params);
        CertificateSummary::of(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    fn subject(attributes: &[(DnType, &str)]) -> String {
        summary(|params| {
            for (kind, value) in attributes {
                params.distinguished_name.push(kind.clone(), DnValue::Utf8String((*value).to_owned()));
            }
        })
        .subject
    }

    #[test]
    fn names_are_written_in_the_order_and_with_the_escapes_of_go() {
        let email = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
        let component = DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 25]);
        assert_eq!(
            subject(&[
                (DnType::CommonName, "a, b"),
                (DnType::CountryName, "JP"),
                (DnType::OrganizationName, "#1 <x>"),
                (DnType::LocalityName, " Tokyo "),
                (DnType::StateOrProvinceName, "a#b c"),
                (DnType::OrganizationalUnitName, r#"a+b;"c"\"#),
                (component, "example"),
                (email, "a@b.c"),
            ]),
            r#"CN=a\, b,ST=a#b c,L=\ Tokyo\ ,OU=a\+b\;\"c\"\\,O=\#1 \<x\>,C=JP,1.2.840.113549.1.9.1=#0c0561406"#
                .to_owned()
                + "22e63,0.9.2342.19200300.100.1.25=#13076578616d706c65"
        );
        assert_eq!(subject(&[]), "");
        assert_eq!(subject(&[(DnType::CommonName, "")]), "");
        let title = DnType::CustomDnType(vec![2, 5, 4, 12]);
        assert_eq!(subject(&[(title, &"x".repeat(200))]), format!("2.5.4.12=#1381c8{}", "78".repeat(200)));
    }

    #[test]
    fn the_serial_number_has_two_digits_for_each_byte_and_no_sign() {
        let serial =
            |bytes: &[u8]| summary(|params| params.serial_number = Some(SerialNumber::from_slice(bytes))).serial;
        assert_eq!(serial(&[0x08, 0x23, 0]), "082300");
        assert_eq!(serial(&[0xb1, 0x02]), "b102");
    }

    #[test]
    fn what_a_certificate_says_is_one_line() {
        let summary = summary(|params| params.distinguished_name.push(DnType::CommonName, "a\nb\u{1b}[31m"));
        assert_eq!(summary.dns_names, "a.example.com");
        assert_eq!(summary.validity, Some((1_577_836_800, 1_893_456_000)));
        let line = summary.line();
        assert!(
            line.starts_with("CN=a\u{FFFD}b\u{FFFD}[31m; valid from 2020-01-01T00:00:00Z until 2030-01-01T00:00:00Z")
        );
        for part in ["issued by itself", "ECDSA of 256 bits", "; for a.example.com", &summary.fingerprint] {
            assert!(line.contains(part), "{line}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_only_a_fingerprint() {
        let summary = CertificateSummary::of(b"abc");
        assert_eq!(summary.fingerprint, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(CertificateSummary { fingerprint: String::new(), ..summary.clone() }, CertificateSummary::default());
        assert!(summary.line().contains("cannot be parsed"));
    }
}
