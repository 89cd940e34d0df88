//! The families about a TLS connection, and the lines about certificates on the debug page.

use rustls::{CipherSuite, ProtocolVersion};

use super::Recorder;
use crate::dial::TlsPeer;
use crate::tls::{CertificateSummary, Expiry};

crate::descs! {
    CHAIN_INFO = gauge "probe_ssl_last_chain_info" ["fingerprint_sha256", "subject", "issuer", "subjectalternative", "serialnumber"] "The server's own certificate, in the labels, even if it was rejected. Always 1.";
    VERSION_INFO = gauge "probe_tls_version_info" ["version"] "Version of TLS that was agreed on, in the label. Always 1.";
}

/// What not every kind with TLS has.
pub(super) mod cipher {
    crate::descs! {
        CIPHER_INFO = gauge "probe_tls_cipher_info" ["cipher"] "Cipher suite that was agreed on, in the label. Always 1.";
    }
}

impl Recorder {
    /// Records the other end of a TLS connection, and the cipher suite if the kind has a family for it. If the handshake failed, that is
    /// the certificate that was rejected. Of several connections, the last one counts.
    pub fn tls(&mut self, peer: &TlsPeer, with_cipher: bool) {
        self.forget_tls();
        let certificates: Vec<_> = peer.chain.iter().map(|der| CertificateSummary::of(der)).collect();
        let earliest = certificates.iter().filter_map(|certificate| certificate.validity).map(|(_, until)| until).min();
        self.expiry = earliest.map(|earliest| Expiry { earliest, last_chain: peer.last_chain });
        for certificate in &certificates {
            self.certificate(&certificate.line());
        }
        if let Some(own) = certificates.first() {
            let CertificateSummary { fingerprint, subject, issuer, dns_names, serial, .. } = own;
            self.set(&CHAIN_INFO, &[fingerprint, subject, issuer, whole_names(dns_names), serial], 1.0);
        }
        if let Some(version) = peer.version {
            self.set(&VERSION_INFO, &[version_name(version)], 1.0);
            let suite = peer.cipher.and_then(cipher_name);
            let with = suite.as_ref().map(|suite| format!(" with {suite}")).unwrap_or_default();
            self.event(format!("agreed on {}{with}", version_name(version)));
            if let Some(suite) = suite.filter(|_| with_cipher) {
                self.set(&cipher::CIPHER_INFO, &[&suite], 1.0);
            }
        }
    }

    /// Forgets an earlier TLS connection, for instance that of a redirect.
    pub fn forget_tls(&mut self) {
        for desc in FAMILIES.iter().chain(cipher::FAMILIES) {
            self.remove(desc);
        }
        self.expiry = None;
        self.forget_certificates();
    }
}

/// Names joined by commas, the last of them left out if all are too long for a label.
fn whole_names(names: &str) -> &str {
    match names.get(..names.floor_char_boundary(super::recorder::MAX_LABEL)) {
        Some(start) if start.len() < names.len() => start.rsplit_once(',').map_or(start, |(whole, _)| whole),
        _ => names,
    }
}

/// What Go calls a version of TLS.
fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLS 1.2",
        ProtocolVersion::TLSv1_3 => "TLS 1.3",
        _ => "unknown",
    }
}

/// What Go calls a cipher suite.
fn cipher_name(suite: CipherSuite) -> Option<String> {
    let name = suite.as_str()?;
    Some(match name.strip_prefix("TLS13_") {
        Some(rest) => format!("TLS_{rest}"),
        None => name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tokio::time::Instant;

    use super::*;
    use crate::metric::{Families, Format, encode};

    fn exported(record: &Recorder) -> Vec<String> {
        let mut out = Families::default();
        record.write(&mut out);
        let mut text = Vec::new();
        encode(&[&out.finish()], Format::Text, &mut text);
        let text = String::from_utf8(text).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    fn peer(names: usize) -> TlsPeer {
        let names: Vec<String> = (0..names).map(|number| format!("host-{number}.example.com")).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&KeyPair::generate().unwrap()).unwrap();
        TlsPeer {
            chain: vec![certificate.der().clone()],
            last_chain: Some(7),
            version: Some(ProtocolVersion::TLSv1_3),
            cipher: Some(CipherSuite::TLS13_AES_128_GCM_SHA256),
            alpn: None,
        }
    }

    #[test]
    fn a_connection_has_the_names_of_go() {
        let mut record = Recorder::new(Instant::now());
        record.tls(&peer(2), true);
        let series = exported(&record);
        assert!(series.iter().any(|line| line == "probe_tls_version_info{version=\"TLS 1.3\"} 1"), "{series:?}");
        let cipher = "probe_tls_cipher_info{cipher=\"TLS_AES_128_GCM_SHA256\"} 1";
        assert!(series.iter().any(|line| line == cipher), "{series:?}");
        let names = "subjectalternative=\"host-0.example.com,host-1.example.com\"";
        assert!(series.iter().any(|line| line.contains(names)), "{series:?}");
        assert_eq!(record.expiry().unwrap().last_chain, Some(7));

        let twelve = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384;
        record.tls(&TlsPeer { version: Some(ProtocolVersion::TLSv1_2), cipher: Some(twelve), ..peer(1) }, true);
        let series = exported(&record);
        assert_eq!(series.len(), 3, "the last connection counts: {series:?}");
        assert_eq!(cipher_name(twelve).unwrap(), "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384");
        record.tls(&peer(1), false);
        assert_eq!(exported(&record).len(), 2);
        assert_eq!(record.into_record().certificates.len(), 1);
    }

    #[test]
    fn a_rejected_certificate_is_recorded_and_a_version_that_was_not_agreed_on_is_not() {
        let mut record = Recorder::new(Instant::now());
        record.tls(&TlsPeer { version: None, cipher: None, last_chain: None, ..peer(1) }, true);
        let series = exported(&record);
        assert!(series.len() == 1 && series[0].starts_with("probe_ssl_last_chain_info{"), "{series:?}");
        assert_eq!(record.expiry().unwrap().last_chain, None);
    }

    #[test]
    fn what_a_server_sends_is_bounded() {
        let mut record = Recorder::new(Instant::now());
        let many = peer(1500);
        let chain = vec![many.chain[0].clone(); 40];
        record.tls(&TlsPeer { chain, ..many }, true);
        let longest = exported(&record).iter().map(String::len).max().unwrap();
        assert!((900..2048).contains(&longest), "{longest}");
        assert!(exported(&record).iter().any(|line| line.contains(".example.com\",serialnumber")), "only whole names");
        let certificates = record.into_record().certificates;
        assert_eq!(certificates.len(), 16);
        assert!(certificates.iter().all(|line| line.len() <= 600 + "[…]".len()));

        let mut record = Recorder::new(Instant::now());
        record.tls(&TlsPeer { chain: vec![b"no certificate".to_vec().into()], ..TlsPeer::default() }, true);
        assert!(exported(&record)[0].contains("subject=\"\""));
        assert_eq!(record.expiry(), None);
    }
}
