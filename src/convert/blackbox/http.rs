//! The prober http.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::block::{Block, BlockField};
use super::super::encoding::accepts;
use super::super::go;
use super::super::report::quoted;
use super::super::secret::{CredentialSource, has_password, with_newline_kept};
use super::ModuleReader;

/// The versions that the exporter compares with.
const VERSIONS: [&str; 4] = ["HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/3.0"];

impl ModuleReader<'_> {
    pub(super) fn http(&mut self, mut block: Block<'_>) {
        self.family(&mut block);
        let mut http = Map::new();
        self.status_codes(&mut block, &mut http);
        self.versions(&mut block, &mut http);
        if let Some(method) = block.filled("method", self.reporter).filter(|method| method.value != "GET") {
            http.insert("method".to_owned(), json!(method.value));
        }
        let accept_encoding = self.headers(&mut block);
        self.body(&mut block, &mut http);
        self.compression(&mut block, accept_encoding, &mut http);
        for (key, field) in [("fail_if_ssl", "failIfSsl"), ("fail_if_not_ssl", "failIfNotSsl")] {
            if block.flag(key, self.reporter).is_some_and(|flag| flag.value) {
                http.insert(field.to_owned(), json!(true));
            }
        }
        for (key, field) in [
            ("fail_if_body_matches_regexp", "failIfBodyMatchesRegexp"),
            ("fail_if_body_not_matches_regexp", "failIfBodyNotMatchesRegexp"),
        ] {
            if let Some(list) = self.regexes(&mut block, key) {
                http.insert(field.to_owned(), list);
            }
        }
        for (key, field) in [
            ("fail_if_header_matches", "failIfHeaderMatches"),
            ("fail_if_header_not_matches", "failIfHeaderNotMatches"),
        ] {
            let rules = self.header_rules(&mut block, key);
            if !rules.is_empty() {
                http.insert(field.to_owned(), Value::Array(rules));
            }
        }
        for key in ["fail_if_body_json_matches_cel", "fail_if_body_json_not_matches_cel"] {
            if let Some(rule) = block.filled(key, self.reporter) {
                let message = "is left out, and the check with it: rules in CEL are not offered; check the body by \
                               failIfBodyMatchesRegexp or failIfBodyNotMatchesRegexp";
                self.reporter.remark(rule.line(), &rule.path, message);
            }
        }
        if let Some(flag) = block.flag("accept_any_response", self.reporter).filter(|flag| flag.value) {
            let message = "is left out: write every status code that is good under validStatusCodes; without them, 200 to 299 are good";
            self.reporter.remark(flag.line(), &flag.path, message);
        }
        self.redirects(&mut block, &mut http);
        self.client(&mut block);
        if let Some(flag) = block.flag("skip_resolve_phase_with_proxy", self.reporter)
            && self.settings.spec.contains_key("proxyUrl")
        {
            http.insert("skipResolvePhaseWithProxy".to_owned(), json!(flag.value));
        }
        self.put_block("http", http);
        block.close(self.reporter);
    }

    fn status_codes(&mut self, block: &mut Block<'_>, http: &mut Map<String, Value>) {
        let mut codes = Vec::new();
        for item in block.list("valid_status_codes", self.reporter) {
            match item.node.scalar().and_then(|text| text.parse::<u16>().ok()) {
                Some(code) if (100..=599).contains(&code) => codes.push(code),
                Some(code) => {
                    let message = format!("{code} is left out: status codes are from 100 to 599");
                    self.reporter.remark(item.line(), &item.path, message);
                }
                None => {
                    let message = "is no status code, write a number, for instance 200";
                    self.reporter.fault(item.line(), &item.path, message);
                }
            }
        }
        if !codes.is_empty() {
            http.insert("validStatusCodes".to_owned(), json!(codes));
        }
    }

    /// `valid_http_versions`, `enable_http2` and `enable_http3`.
    fn versions(&mut self, block: &mut Block<'_>, http: &mut Map<String, Value>) {
        let versions = block.texts("valid_http_versions", self.reporter);
        let http2 = block.flag("enable_http2", self.reporter);
        let http3 = block.flag("enable_http3", self.reporter).filter(|flag| flag.value);
        if let Some(flag) = &http3 {
            if http2.as_ref().is_none_or(|flag| flag.value) {
                let message = "excludes HTTP/2, which is on unless it is turned off: write enable_http2: false as well";
                self.reporter.fault(flag.line(), &flag.path, message);
            }
            if let Some(version) = versions.iter().find(|version| version.value != "HTTP/3.0") {
                let message = "cannot be met together with enable_http3: write HTTP/3.0 alone";
                self.reporter.fault(version.line(), &version.path, message);
            }
            self.settings.forces_https = true;
            let message = "is left out: HTTP/3 is not offered, so that the server is asked by HTTP/1.1 over TCP";
            self.reporter.remark(flag.line(), &flag.path, message);
        }
        let (mut written, mut only_http3) = (Vec::new(), !versions.is_empty());
        for version in versions {
            match version.value.as_str() {
                "HTTP/3.0" => {
                    let message = "is left out: HTTP/3 is not offered, and no answer could have this version";
                    self.reporter.remark(version.line(), &version.path, message);
                }
                "HTTP/2" => {
                    let message = "never matches in the blackbox exporter, which says HTTP/2.0: here it means HTTP/2";
                    self.reporter.remark(version.line(), &version.path, message);
                    only_http3 = false;
                    written.push("HTTP/2.0".to_owned());
                }
                known if VERSIONS.contains(&known) => {
                    only_http3 = false;
                    written.push(known.to_owned());
                }
                other => {
                    let message = format!(
                        "{} is no version that an answer can have, write one of {}",
                        quoted(other),
                        VERSIONS.join(", ")
                    );
                    self.reporter.fault(version.line(), &version.path, message);
                }
            }
        }
        let mut seen = BTreeSet::new();
        written.retain(|version| seen.insert(version.clone()));
        if !written.is_empty() && !only_http3 {
            http.insert("validHttpVersions".to_owned(), json!(written));
        }
        if http2.is_some_and(|flag| !flag.value) {
            http.insert("enableHttp2".to_owned(), json!(false));
        }
    }

    /// `headers`; the value of Accept-Encoding.
    fn headers<'n>(&mut self, block: &mut Block<'n>) -> Option<BlockField<'n, String>> {
        let mut accept_encoding = None;
        for (name, field) in block.text_map("headers", self.reporter) {
            match name.to_ascii_lowercase().as_str() {
                "host" => self.settings.host = Some(field.value.clone()),
                "accept-encoding" => accept_encoding = Some(field.clone()),
                "content-length" | "transfer-encoding" | "connection" | "upgrade" => {
                    let message = "is left out: the connection sets this header";
                    self.reporter.remark(field.line(), &field.path, message);
                    continue;
                }
                _ => {}
            }
            self.header(&name, &field.value, (field.line(), &field.path));
        }
        accept_encoding
    }

    /// `body`, `body_file` and `body_size_limit`.
    fn body(&mut self, block: &mut Block<'_>, http: &mut Map<String, Value>) {
        let body = block.filled("body", self.reporter);
        let file = block.filled("body_file", self.reporter);
        match (body, file) {
            (Some(_), Some(file)) => {
                self.reporter.fault(file.line(), &file.path, "excludes body: write one of them");
            }
            (Some(body), None) if has_password(&body.value) => {
                let source = CredentialSource::Inline(with_newline_kept(&body.value));
                let at = (body.line(), body.path.as_str());
                let reference = self.settings.secrets.add("body", source, at, self.reporter);
                http.insert("bodySecretRef".to_owned(), reference);
            }
            (Some(body), None) => drop(http.insert("body".to_owned(), json!(body.value))),
            (None, Some(file)) => match self.files.read(Path::new(&file.value)) {
                Ok(text) if has_password(&text) => {
                    if text.ends_with('\n') {
                        let message = "has a newline at its end, which is removed when it is read from a Secret";
                        self.reporter.remark(file.line(), &file.path, message);
                    }
                    let source = CredentialSource::File(file.value.clone());
                    let at = (file.line(), file.path.as_str());
                    let reference = self.settings.secrets.add("body", source, at, self.reporter);
                    http.insert("bodySecretRef".to_owned(), reference);
                }
                Ok(text) => {
                    let message = format!(
                        "is written into the targets: a target reads no files, and a change of {} is not followed",
                        quoted(&file.value)
                    );
                    self.reporter.remark(file.line(), &file.path, message);
                    if !text.is_empty() {
                        http.insert("body".to_owned(), json!(text));
                    }
                }
                Err(why) => {
                    let message = format!(
                        "{} cannot be read here ({why}), and a target reads no files: write its text under http.body, or put the file in \
                         place and convert again; the targets are written without a body",
                        quoted(&file.value)
                    );
                    self.reporter.remark(file.line(), &file.path, message);
                }
            },
            (None, None) => {}
        }
        let Some(limit) = block.text("body_size_limit", self.reporter).filter(|limit| !limit.value.is_empty()) else {
            return;
        };
        match go::size(&limit.value) {
            Some(0) => {}
            Some(bytes) => drop(http.insert("bodySizeLimit".to_owned(), json!(quantity(bytes)))),
            None => {
                let message = format!("{} is no size, write for instance 10MB", quoted(&limit.value));
                self.reporter.fault(limit.line(), &limit.path, message);
            }
        }
    }

    fn compression(
        &mut self,
        block: &mut Block<'_>,
        accept_encoding: Option<BlockField<'_, String>>,
        http: &mut Map<String, Value>,
    ) {
        let Some(word) = block.filled("compression", self.reporter) else { return };
        if !matches!(word.value.as_str(), "gzip" | "br" | "deflate" | "identity") {
            let message =
                format!("{} cannot be decompressed, write gzip, br, deflate or identity", quoted(&word.value));
            self.reporter.fault(word.line(), &word.path, message);
            return;
        }
        if let Some(header) = accept_encoding
            && !accepts(&header.value, &word.value)
        {
            let message = format!(
                "{} does not accept the compression {}, so that no answer could be good: write both alike",
                quoted(&header.value),
                word.value
            );
            self.reporter.fault(header.line(), &header.path, message);
        }
        http.insert("compression".to_owned(), json!(word.value));
    }

    fn header_rules(&mut self, block: &mut Block<'_>, key: &'static str) -> Vec<Value> {
        let mut rules = Vec::new();
        for item in block.list(key, self.reporter) {
            let Some(mut inner) = Block::open(item.node, &item.path, self.reporter) else { continue };
            let header = inner.filled("header", self.reporter);
            let regexp = inner.filled("regexp", self.reporter);
            let allow_missing = inner.flag("allow_missing", self.reporter).is_some_and(|flag| flag.value);
            let line = inner.line;
            inner.close(self.reporter);
            for (is_missing, name) in [(header.is_none(), "header"), (regexp.is_none(), "regexp")] {
                if is_missing {
                    self.reporter.fault(line, &item.path, format!("{name} is missing, write it"));
                }
            }
            let (Some(header), Some(regexp)) = (header, regexp) else { continue };
            let Some(common) = self.regex(&regexp) else { continue };
            let mut rule = Map::new();
            rule.insert("header".to_owned(), json!(header.value));
            rule.insert("regexp".to_owned(), json!(common));
            if allow_missing {
                rule.insert("allowMissing".to_owned(), json!(true));
            }
            rules.push(Value::Object(rule));
        }
        rules
    }

    /// `follow_redirects`, and the older `no_follow_redirects`, which wins.
    fn redirects(&mut self, block: &mut Block<'_>, http: &mut Map<String, Value>) {
        let follow = block.flag("follow_redirects", self.reporter).map(|flag| flag.value);
        let older = block.flag("no_follow_redirects", self.reporter).map(|flag| !flag.value);
        if older.or(follow) == Some(false) {
            http.insert("followRedirects".to_owned(), json!(false));
        }
    }
}

/// A number of bytes as a quantity of Kubernetes.
fn quantity(bytes: u64) -> String {
    let units = [(30, "Gi"), (20, "Mi"), (10, "Ki")];
    let whole = units.iter().find(|(shift, _)| bytes.is_multiple_of(1 << shift));
    whole.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}
