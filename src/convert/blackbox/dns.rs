//! The prober dns.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::super::block::{Block, BlockField};
use super::super::report::quoted;
use super::ModuleReader;

/// The types of records that the exporter knows by name.
const TYPES: &str = "A NS MD MF CNAME SOA MB MG MR NULL PTR HINFO MINFO MX TXT RP AFSDB X25 ISDN RT NSAP-PTR SIG KEY PX GPOS AAAA LOC NXT \
                     EID NIMLOC SRV ATMA NAPTR KX CERT DNAME OPT APL DS SSHFP IPSECKEY RRSIG NSEC DNSKEY DHCID NSEC3 NSEC3PARAM TLSA \
                     SMIMEA HIP NINFO RKEY TALINK CDS CDNSKEY OPENPGPKEY CSYNC ZONEMD SVCB HTTPS SPF UINFO UID GID UNSPEC NID L32 L64 LP \
                     EUI48 EUI64 NXNAME URI CAA AVC AMTRELAY RESINFO TKEY TSIG IXFR AXFR MAILB MAILA ANY TA DLV";

const CLASSES: &str = "IN CS CH HS NONE ANY";

const RCODES: &str = "NOERROR FORMERR SERVFAIL NXDOMAIN NOTIMP REFUSED YXDOMAIN YXRRSET NXRRSET NOTAUTH NOTZONE DSOTYPENI BADSIG BADKEY \
                      BADTIME BADMODE BADNAME BADALG BADTRUNC BADCOOKIE";

impl ModuleReader<'_> {
    pub(super) fn dns(&mut self, mut block: Block<'_>) {
        self.family(&mut block);
        self.source_address(&mut block);
        let mut dns = Map::new();
        match block.filled("query_name", self.reporter) {
            Some(name) => drop(dns.insert("queryName".to_owned(), json!(name.value))),
            None => self.reporter.fault(block.line, &block.path, "query_name is missing: write the name that is asked"),
        }
        for (key, field, words) in [("query_type", "queryType", TYPES), ("query_class", "queryClass", CLASSES)] {
            if let Some(word) = block.filled(key, self.reporter)
                && self.is_word(&word, words)
            {
                dns.insert(field.to_owned(), json!(word.value));
            }
        }
        if let Some(flag) = block.flag("recursion_desired", self.reporter).filter(|flag| !flag.value) {
            dns.insert("recursionDesired".to_owned(), json!(flag.value));
        }
        let transport = block.filled("transport_protocol", self.reporter);
        let over_tls = block.flag("dns_over_tls", self.reporter).filter(|flag| flag.value);
        if let Some(word) = transport.as_ref().filter(|word| !matches!(word.value.as_str(), "udp" | "tcp")) {
            let message = format!("{} is neither udp nor tcp, write one of them", quoted(&word.value));
            self.reporter.fault(word.line(), &word.path, message);
        }
        let is_tcp = transport.as_ref().is_some_and(|word| word.value == "tcp");
        if let Some(flag) = &over_tls {
            dns.insert("dnsOverTLS".to_owned(), json!(true));
            if !is_tcp {
                self.reporter.fault(
                    flag.line(),
                    &flag.path,
                    "needs a connection: write transport_protocol: tcp as well",
                );
            }
        }
        if is_tcp {
            dns.insert("transportProtocol".to_owned(), json!("tcp"));
        }
        self.tls_config(&mut block, over_tls.is_some());
        let codes = block.texts("valid_rcodes", self.reporter);
        let known = codes.into_iter().filter(|code| self.is_word(code, RCODES)).map(|code| code.value);
        let codes: BTreeSet<String> = known.collect();
        if !codes.is_empty() {
            dns.insert("validRcodes".to_owned(), json!(codes));
        }
        for (key, field) in [
            ("validate_answer_rrs", "validateAnswerRrs"),
            ("validate_authority_rrs", "validateAuthorityRrs"),
            ("validate_additional_rrs", "validateAdditionalRrs"),
        ] {
            let Some(mut inner) = block.block(key, self.reporter) else { continue };
            let mut rules = Map::new();
            for (key, field) in [
                ("fail_if_matches_regexp", "failIfMatchesRegexp"),
                ("fail_if_all_match_regexp", "failIfAllMatchRegexp"),
                ("fail_if_not_matches_regexp", "failIfNotMatchesRegexp"),
                ("fail_if_none_matches_regexp", "failIfNoneMatchesRegexp"),
            ] {
                if let Some(list) = self.regexes(&mut inner, key) {
                    rules.insert(field.to_owned(), list);
                }
            }
            inner.close(self.reporter);
            if !rules.is_empty() {
                dns.insert(field.to_owned(), Value::Object(rules));
            }
        }
        self.put_block("dns", dns);
        block.close(self.reporter);
    }

    fn is_word(&mut self, field: &BlockField<'_, String>, words: &str) -> bool {
        let is_known = words.split_whitespace().any(|word| word == field.value);
        if !is_known {
            let near = crate::crd::nearest(&field.value, words.split_whitespace());
            let hint = near.map_or_else(|| "write for instance".to_owned(), |_| "did you mean".to_owned());
            let example = near.or_else(|| words.split_whitespace().next()).unwrap_or_default();
            let message = format!("{} is not known here, {hint} {example}", quoted(&field.value));
            self.reporter.fault(field.line(), &field.path, message);
        }
        is_known
    }
}
