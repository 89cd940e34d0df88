//! The names of record types, classes and response codes, and what the data of each type consists of.

use DataPart::{
    Address4, Address6, Base32, Base64, CertificateType, Hex, Letters, Location, Name, Names, Number8, Number16,
    Number32, Octets, Option4And6, PlainText, Prefixes, PublicKeyOfHost, Relay, SecondText, ServiceParameters, Text,
    Texts, Time, Type, Types, UpperHex,
};

/// One part of the data of a record, and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataPart {
    /// Decimal numbers of so many bits.
    Number8,
    Number16,
    Number32,
    /// A domain name, perhaps compressed.
    Name,
    /// Domain names until the end.
    Names,
    /// A text of at most 255 bytes, in quotes.
    Text,
    /// The same, empty if the data ends before it.
    SecondText,
    /// The same until the end.
    Texts,
    /// The same without quotes.
    PlainText,
    /// What is left, in quotes.
    Octets,
    /// Addresses.
    Address4,
    Address6,
    /// What is left, in hexadecimal digits, Base64, or upper-case digits.
    Hex,
    UpperHex,
    Base64,
    /// What is left in digits, in pieces of 1,024 of them.
    LongHex,
    /// A length and so many bytes, in upper-case digits; `-` if there are none.
    Salt,
    /// A length and so many bytes, in Base32.
    Base32,
    /// `YYYYMMDDhhmmss`, in UTC.
    Time,
    /// The name of one type.
    Type,
    /// A bitmap of types, until the end.
    Types,
    /// A kind of certificate, and an algorithm: names if they have some.
    CertificateType,
    Algorithm,
    /// 64 bits in four groups of digits, in lower and upper case.
    Groups,
    UpperGroups,
    /// An address of an Ethernet card, of this many bytes.
    Letters(usize),
    /// LOC: degrees, minutes, seconds, metres.
    Location,
    /// APL: prefixes of addresses until the end.
    Prefixes,
    /// HIP: three lengths, a tag and a key; the names of servers follow.
    PublicKeyOfHost,
    /// IPSECKEY and AMTRELAY: the kind of a gateway, and then the gateway.
    Option4And6,
    Relay,
    /// SVCB: parameters until the end.
    ServiceParameters,
}

/// A type of record.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordType {
    pub(super) number: u16,
    pub(super) name: &'static str,
    /// What its data is; none if its records are written like those of an unknown type.
    pub(super) data: Option<&'static [DataPart]>,
}

/// The number of the type of the pseudo-record of EDNS, which is written in its own way.
pub(super) const OPT: u16 = 41;
pub(super) const SOA: u16 = 6;
pub(super) const NULL: u16 = 10;
pub(super) const ANY: u16 = 255;

const ONE_NAME: &[DataPart] = &[Name];
const PREFERENCE_NAME: &[DataPart] = &[Number16, Name];
const SIGNATURE: &[DataPart] = &[Type, Number8, Number8, Number32, Time, Time, Number16, Name, Base64];
const KEY: &[DataPart] = &[Number16, Number8, Number8, Base64];
const DIGEST: &[DataPart] = &[Number16, Number8, Number8, UpperHex];
const SERVICE: &[DataPart] = &[Number16, Name, ServiceParameters];

macro_rules! types {
    ($($number:literal $name:literal $data:expr;)+) => {
        /// Every type that has a name, by number.
        pub(super) static TYPES: &[RecordType] = &[$(RecordType { number: $number, name: $name, data: $data }),+];
    };
}

types! {
    1 "A" Some(&[Address4]);
    2 "NS" Some(ONE_NAME);
    3 "MD" Some(ONE_NAME);
    4 "MF" Some(ONE_NAME);
    5 "CNAME" Some(ONE_NAME);
    6 "SOA" Some(&[Name, Name, Number32, Number32, Number32, Number32, Number32]);
    7 "MB" Some(ONE_NAME);
    8 "MG" Some(ONE_NAME);
    9 "MR" Some(ONE_NAME);
    10 "NULL" Some(&[]);
    12 "PTR" Some(ONE_NAME);
    13 "HINFO" Some(&[Text, Text]);
    14 "MINFO" Some(&[Name, Name]);
    15 "MX" Some(PREFERENCE_NAME);
    16 "TXT" Some(&[Texts]);
    17 "RP" Some(&[Name, Name]);
    18 "AFSDB" Some(PREFERENCE_NAME);
    19 "X25" Some(&[PlainText]);
    20 "ISDN" Some(&[Text, SecondText]);
    21 "RT" Some(PREFERENCE_NAME);
    23 "NSAP-PTR" Some(ONE_NAME);
    24 "SIG" Some(SIGNATURE);
    25 "KEY" Some(KEY);
    26 "PX" Some(&[Number16, Name, Name]);
    27 "GPOS" Some(&[PlainText, PlainText, PlainText]);
    28 "AAAA" Some(&[Address6]);
    29 "LOC" Some(&[Location]);
    30 "NXT" Some(&[Name, Types]);
    31 "EID" Some(&[UpperHex]);
    32 "NIMLOC" Some(&[UpperHex]);
    33 "SRV" Some(&[Number16, Number16, Number16, Name]);
    34 "ATMA" None;
    35 "NAPTR" Some(&[Number16, Number16, Text, Text, Text, Name]);
    36 "KX" Some(PREFERENCE_NAME);
    37 "CERT" Some(&[CertificateType, Number16, DataPart::Algorithm, Base64]);
    39 "DNAME" Some(ONE_NAME);
    41 "OPT" None;
    42 "APL" Some(&[Prefixes]);
    43 "DS" Some(DIGEST);
    44 "SSHFP" Some(&[Number8, Number8, UpperHex]);
    45 "IPSECKEY" Some(&[Number8, Option4And6, Base64]);
    46 "RRSIG" Some(SIGNATURE);
    47 "NSEC" Some(&[Name, Types]);
    48 "DNSKEY" Some(KEY);
    49 "DHCID" Some(&[Base64]);
    50 "NSEC3" Some(&[Number8, Number8, Number16, DataPart::Salt, Base32, Types]);
    51 "NSEC3PARAM" Some(&[Number8, Number8, Number16, DataPart::Salt]);
    52 "TLSA" Some(&[Number8, Number8, Number8, Hex]);
    53 "SMIMEA" Some(&[Number8, Number8, Number8, DataPart::LongHex]);
    55 "HIP" Some(&[PublicKeyOfHost, Names]);
    56 "NINFO" Some(&[Texts]);
    57 "RKEY" Some(KEY);
    58 "TALINK" Some(&[Name, Name]);
    59 "CDS" Some(DIGEST);
    60 "CDNSKEY" Some(KEY);
    61 "OPENPGPKEY" Some(&[Base64]);
    62 "CSYNC" Some(&[Number32, Number16, Types]);
    63 "ZONEMD" Some(&[Number32, Number8, Number8, Hex]);
    64 "SVCB" Some(SERVICE);
    65 "HTTPS" Some(SERVICE);
    99 "SPF" Some(&[Texts]);
    100 "UINFO" Some(&[Text]);
    101 "UID" Some(&[Number32]);
    102 "GID" Some(&[Number32]);
    103 "UNSPEC" None;
    104 "NID" Some(&[Number16, DataPart::Groups]);
    105 "L32" Some(&[Number16, Address4]);
    106 "L64" Some(&[Number16, DataPart::UpperGroups]);
    107 "LP" Some(PREFERENCE_NAME);
    108 "EUI48" Some(&[Letters(6)]);
    109 "EUI64" Some(&[Letters(8)]);
    128 "NXNAME" None;
    249 "TKEY" None;
    250 "TSIG" None;
    251 "IXFR" None;
    252 "AXFR" None;
    253 "MAILB" None;
    254 "MAILA" None;
    255 "ANY" None;
    256 "URI" Some(&[Number16, Number16, Octets]);
    257 "CAA" Some(&[Number8, PlainText, Octets]);
    258 "AVC" Some(&[Texts]);
    260 "AMTRELAY" Some(&[Number8, Relay]);
    261 "RESINFO" Some(&[Texts]);
    32768 "TA" Some(DIGEST);
    32769 "DLV" Some(DIGEST);
}

/// What is known of a type.
pub(super) fn record_type(number: u16) -> Option<&'static RecordType> {
    TYPES.binary_search_by_key(&number, |known| known.number).ok().and_then(|at| TYPES.get(at))
}

/// The names that a question may have, as a part of a regular expression.
pub(super) fn any_type() -> String {
    let names: Vec<&str> = TYPES.iter().map(|known| known.name).collect();
    format!("({}|TYPE[0-9]{{1,5}})", names.join("|"))
}

/// The number of a type by its name, also of one without a name: `TYPE65280`.
pub(super) fn type_number(name: &str) -> Option<u16> {
    let known = TYPES.iter().find(|known| known.name == name).map(|known| known.number);
    known.or_else(|| name.strip_prefix("TYPE")?.parse().ok())
}

/// The name of a type.
pub(super) fn type_name(number: u16) -> String {
    record_type(number).map_or_else(|| format!("TYPE{number}"), |known| known.name.to_owned())
}

const CLASSES: &[(u16, &str)] = &[(1, "IN"), (2, "CS"), (3, "CH"), (4, "HS"), (254, "NONE"), (255, "ANY")];

/// The number of a class by its name.
pub(super) fn class_number(name: &str) -> Option<u16> {
    CLASSES.iter().find(|(_, known)| *known == name).map(|(number, _)| *number)
}

/// The name of a class in a record. `ANY` is that of a type as well, so there it is a number.
pub(super) fn class_name(number: u16) -> String {
    let known = CLASSES.iter().find(|(known, name)| *known == number && *name != "ANY");
    known.map_or_else(|| format!("CLASS{number}"), |(_, name)| (*name).to_owned())
}

/// The response codes that have a name.
pub(super) const RCODES: &[(u16, &str)] = &[
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (6, "YXDOMAIN"),
    (7, "YXRRSET"),
    (8, "NXRRSET"),
    (9, "NOTAUTH"),
    (10, "NOTZONE"),
    (11, "DSOTYPENI"),
    (16, "BADSIG"),
    (17, "BADKEY"),
    (18, "BADTIME"),
    (19, "BADMODE"),
    (20, "BADNAME"),
    (21, "BADALG"),
    (22, "BADTRUNC"),
    (23, "BADCOOKIE"),
];

/// The number of a response code by its name.
pub(super) fn rcode_number(name: &str) -> Option<u16> {
    RCODES.iter().find(|(_, known)| *known == name).map(|(number, _)| *number)
}

/// The name of a response code.
pub(super) fn rcode_name(number: u16) -> String {
    let known = RCODES.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("RCODE{number}"), |(_, name)| (*name).to_owned())
}

/// The name of a kind of certificate in a CERT record.
pub(super) fn certificate_type(number: u16) -> Option<&'static str> {
    Some(match number {
        1 => "PKIX",
        2 => "SPKI",
        3 => "PGP",
        4 => "IPIX",
        5 => "ISPKI",
        6 => "IPGP",
        7 => "ACPKIX",
        8 => "IACPKIX",
        253 => "URI",
        254 => "OID",
        _ => return None,
    })
}

/// The name of an algorithm of DNSSEC, as CERT records are written with.
pub(super) fn algorithm(number: u8) -> Option<&'static str> {
    Some(match number {
        1 => "RSAMD5",
        2 => "DH",
        3 => "DSA",
        5 => "RSASHA1",
        6 => "DSA-NSEC3-SHA1",
        7 => "RSASHA1-NSEC3-SHA1",
        8 => "RSASHA256",
        10 => "RSASHA512",
        12 => "ECC-GOST",
        13 => "ECDSAP256SHA256",
        14 => "ECDSAP384SHA384",
        15 => "ED25519",
        16 => "ED448",
        252 => "INDIRECT",
        253 => "PRIVATEDNS",
        254 => "PRIVATEOID",
        _ => return None,
    })
}

/// The name of a parameter of an SVCB record.
pub(super) fn service_parameter(key: u16) -> Option<&'static str> {
    const NAMES: [&str; 9] =
        ["mandatory", "alpn", "no-default-alpn", "port", "ipv4hint", "ech", "ipv6hint", "dohpath", "ohttp"];
    NAMES.get(usize::from(key)).copied()
}

/// The names of the extended errors of RFC 8914.
const EXTENDED_ERRORS: &[&str] = &[
    "Other",
    "Unsupported DNSKEY Algorithm",
    "Unsupported DS Digest Type",
    "Stale Answer",
    "Forged Answer",
    "DNSSEC Indeterminate",
    "DNSSEC Bogus",
    "Signature Expired",
    "Signature Not Yet Valid",
    "DNSKEY Missing",
    "RRSIGs Missing",
    "No Zone Key Bit Set",
    "NSEC Missing",
    "Cached Error",
    "Not Ready",
    "Blocked",
    "Censored",
    "Filtered",
    "Prohibited",
    "Stale NXDOMAIN Answer",
    "Not Authoritative",
    "Not Supported",
    "No Reachable Authority",
    "Network Error",
    "Invalid Data",
    "Signature Expired Before Valid",
    "Too Early",
    "Unsupported NSEC3 Iterations Value",
    "Unable To Conform To Policy",
    "Synthesized",
    "Invalid Query Type",
];

/// The name of an extended error.
pub(super) fn extended_error(number: u16) -> Option<&'static str> {
    EXTENDED_ERRORS.get(usize::from(number)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_stand_in_the_order_of_their_numbers_and_each_has_its_own_name() {
        assert!(TYPES.is_sorted_by(|one, next| one.number < next.number));
        for known in TYPES {
            assert_eq!(type_number(known.name), Some(known.number));
            assert_eq!(type_name(known.number), known.name);
        }
        assert_eq!(type_number("TYPE65280"), Some(65280));
        assert_eq!(type_name(65280), "TYPE65280");
        assert_eq!(type_number("TYPE65536"), None);
        assert_eq!(type_number("a"), None);
    }

    #[test]
    fn classes_and_codes_have_names() {
        assert_eq!((class_number("CH"), class_number("ch")), (Some(3), None));
        assert_eq!([1, 3, 254, 255, 7].map(class_name), ["IN", "CH", "NONE", "CLASS255", "CLASS7"]);
        assert_eq!((rcode_number("NXDOMAIN"), rcode_name(3), rcode_name(99)), (Some(3), "NXDOMAIN".into(), "RCODE99".into()));
    }
}
