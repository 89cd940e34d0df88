//! Probers with a dialogue: tcp, websocket, and unix, which is read and not converted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::super::block::{Block, BlockField};
use super::super::relabel::is_label_name;
use super::super::report::quoted;
use super::super::secret::{
    CredentialSource, has_password, has_word_before_password, only_begins_login, with_newline_kept,
};
use super::ModuleReader;
use super::client::ProxyUse;
use crate::yaml::{Data, Node, decode_binary};

/// What a dialogue consists of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DialogueUnit {
    Lines,
    Messages,
}

/// What the exporter does not use of a step whose dialogue consists of messages.
const UNUSED: &str = "is left out: with the prober websocket, the blackbox exporter does not use it";

impl ModuleReader<'_> {
    /// Whether the connection begins with TLS.
    pub(super) fn tcp(&mut self, mut block: Block<'_>) -> bool {
        self.family(&mut block);
        self.source_address(&mut block);
        let tls = block.flag("tls", self.reporter).is_some_and(|tls| tls.value);
        let (steps, has_start_tls) = self.query_response(&mut block, DialogueUnit::Lines);
        self.settings.starts_tls = has_start_tls;
        if tls && has_start_tls {
            // The exporter starts TLS within TLS; no server answers that.
            let message = "starttls over a connection that begins with TLS is left as it is: check the steps";
            self.reporter.remark(block.line, &block.path, message);
        }
        self.tls_config(&mut block, tls || has_start_tls);
        let mut tcp = Map::new();
        if !steps.is_empty() {
            tcp.insert("queryResponse".to_owned(), Value::Array(steps));
        }
        self.put_block("tcp", tcp);
        block.close(self.reporter);
        tls
    }

    pub(super) fn unix(&mut self, mut block: Block<'_>) {
        let tls = block.flag("tls", self.reporter).is_some_and(|tls| tls.value);
        self.query_response(&mut block, DialogueUnit::Lines);
        self.tls_config(&mut block, tls);
        block.close(self.reporter);
    }

    pub(super) fn websocket(&mut self, mut block: Block<'_>) {
        self.family(&mut block);
        if let Some(field) = block.node("http_config") {
            self.handshake_credentials(&field);
        }
        if let Some(mut client) = block.block("http_config", self.reporter) {
            for field in
                ["proxy_url", "no_proxy", "proxy_from_environment", "proxy_connect_header", "oauth2", "http_headers"]
            {
                if let Some(field) = client.node(field) {
                    self.reporter.remark(field.line(), &field.path, UNUSED);
                }
            }
            let mut ways = self.credentials(&mut client);
            self.unused(|reader| {
                reader.token_from_endpoint(&mut client, &mut ways);
                reader.proxy(&mut client, ProxyUse::Target);
                reader.http_headers(&mut client, "http_headers");
            });
            self.one_way(&ways);
            self.tls_config(&mut client, true);
            client.close(self.reporter);
        }
        if let Some(field) = block.node("headers") {
            self.handshake_headers(&field);
        }
        let headers = block.node("headers");
        self.http_headers(&mut block, "headers");
        let mut websocket = Map::new();
        let subprotocols = self.subprotocols();
        if let (Some(headers), false) = (headers, subprotocols.is_empty()) {
            let message = "Sec-WebSocket-Protocol is written as subprotocols, of which the server must choose one: the blackbox exporter \
                           does not look at its choice";
            self.reporter.remark(headers.line(), &headers.path, message);
            websocket.insert("subprotocols".to_owned(), json!(subprotocols));
        }
        let (steps, _) = self.query_response(&mut block, DialogueUnit::Messages);
        if !steps.is_empty() {
            websocket.insert("queryResponse".to_owned(), Value::Array(steps));
        }
        self.put_block("websocket", websocket);
        block.close(self.reporter);
    }

    /// Takes the header that asks for subprotocols away from the others.
    fn subprotocols(&mut self) -> Vec<String> {
        let mut asked = Vec::new();
        self.settings.headers.retain(|header| {
            let text = |field: &str| header.get(field).and_then(Value::as_str);
            let is_it = text("name").is_some_and(|name| name.eq_ignore_ascii_case("sec-websocket-protocol"));
            let Some(value) = text("value").filter(|_| is_it) else { return true };
            asked.extend(value.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()));
            false
        });
        asked
    }

    /// What the exporter demands of credentials of a handshake besides.
    fn handshake_credentials(&mut self, client: &BlockField<'_, ()>) {
        if let Some(basic) = client.node.get("basic_auth") {
            for word in ["username", "password"] {
                if !basic.entries().iter().any(|entry| entry.key.starts_with(word) && !entry.value.is_null()) {
                    let message = format!("has no {word}: write both username and password");
                    self.reporter.fault(basic.line, &super::join(&client.path, "basic_auth"), message);
                }
            }
        }
        if let Some(token) = client.node.get("bearer_token")
            && token.scalar().is_some_and(|text| !text.is_empty() && text.trim().is_empty())
        {
            let message = "has nothing but blanks: write the token, or remove it";
            self.reporter.fault(token.line, &super::join(&client.path, "bearer_token"), message);
        }
    }

    fn handshake_headers(&mut self, headers: &BlockField<'_, ()>) {
        for entry in headers.node.entries() {
            let path = super::join(&headers.path, &entry.key);
            if entry.key.chars().any(char::is_control) {
                self.reporter.fault(entry.line, &path, "has a control character in its name: remove it");
            }
            let lists = ["values", "secrets"].into_iter().filter_map(|key| entry.value.get(key));
            for value in lists.flat_map(Node::items) {
                if value.scalar().is_some_and(|text| text.contains(['\r', '\n'])) {
                    self.reporter.fault(value.line, &path, "has a line break in its value: remove it");
                }
            }
        }
    }

    /// The steps, and whether one of them starts TLS.
    fn query_response(&mut self, block: &mut Block<'_>, unit: DialogueUnit) -> (Vec<Value>, bool) {
        let mut steps = Vec::new();
        let (mut has_start_tls, mut with_labels, mut logs_in) = (false, false, false);
        for item in block.list("query_response", self.reporter) {
            let Some(mut inner) = Block::open(item.node, &item.path, self.reporter) else { continue };
            let mut step = Map::new();
            let expect = inner.text("expect", self.reporter);
            let expect_bytes = inner.node("expect_bytes");
            if let (Some(_), Some(bytes)) = (&expect, &expect_bytes) {
                let message = "excludes expect: write one of them, or two steps";
                self.reporter.fault(bytes.line(), &bytes.path, message);
            }
            if let Some(expect) = &expect
                && expect.value.is_empty()
            {
                // Unlike other empty texts, this one is a check: the blackbox exporter waits for a line.
                let what = if unit == DialogueUnit::Lines { "line" } else { "message" };
                let message = format!("is empty, and matches any {what}: it is written as ^, which does so too");
                self.reporter.remark(expect.line(), &expect.path, message);
                step.insert("expect".to_owned(), json!("^"));
            } else if let Some(expect) = expect
                && let Some(common) = self.regex(&expect)
            {
                step.insert("expect".to_owned(), json!(common));
            }
            if let Some(field) = expect_bytes
                && let Some(bytes) = self.bytes(&field)
                && self.is_used(unit, &field)
            {
                put_bytes(&mut step, ["expectBytes", "expectBase64"], &bytes);
            }
            let written = inner.node("labels");
            let labels = self.step_labels(&mut inner);
            if !labels.is_empty() && written.is_some_and(|field| self.is_used(unit, &field)) {
                if std::mem::replace(&mut with_labels, true) {
                    let message =
                        "a second step has labels: the blackbox exporter fails when both match; write them in one step";
                    self.reporter.fault(inner.line, &inner.path, message);
                }
                step.insert("labels".to_owned(), Value::Array(labels));
            }
            if let Some(send) = inner.node("send")
                && let Some(bytes) = self.bytes(&send)
                && !bytes.is_empty()
                && !self.send_from_secret(&bytes, &send, &mut logs_in, &mut step)
            {
                put_bytes(&mut step, ["send", "sendBase64"], &bytes);
                if step.contains_key("sendBase64") && unit == DialogueUnit::Messages {
                    let message = "is no text, and sent as a binary message: the blackbox exporter sends a text message that is not UTF-8";
                    self.reporter.remark(send.line(), &send.path, message);
                } else if step.contains_key("sendBase64") {
                    // The exporter ends everything that it sends with a line feed.
                    step.insert("newline".to_owned(), json!(true));
                    let message = "is sent with a line feed at its end, as the blackbox exporter does: write newline: false if the \
                                   server does not expect it";
                    self.reporter.remark(send.line(), &send.path, message);
                }
            }
            if let Some(flag) = inner.flag("starttls", self.reporter).filter(|flag| flag.value)
                && self.is_used(unit, &flag)
            {
                step.insert("starttls".to_owned(), json!(true));
                has_start_tls = true;
            }
            inner.close(self.reporter);
            if !step.is_empty() {
                steps.push(Value::Object(step));
            }
        }
        (steps, has_start_tls)
    }

    /// Whether the exporter uses what only lines have. If it does not, that is said.
    fn is_used<T>(&mut self, unit: DialogueUnit, field: &BlockField<'_, T>) -> bool {
        if unit == DialogueUnit::Messages {
            self.reporter.remark(field.line(), &field.path, UNUSED);
        }
        unit == DialogueUnit::Lines
    }

    /// Bytes that have a password in them, as a reference. False: they are written into the target.
    fn send_from_secret(
        &mut self,
        bytes: &[u8],
        send: &BlockField<'_, ()>,
        logs_in: &mut bool,
        step: &mut Map<String, Value>,
    ) -> bool {
        let text = String::from_utf8_lossy(bytes);
        // After AUTH LOGIN, the name and the password are lines of their own, in base64; commands are in capital letters.
        let word = text.trim();
        let is_answer = *logs_in
            && !word.contains(char::is_whitespace)
            && !word.chars().all(|c| c.is_ascii_uppercase() || matches!(c, '.' | '*'));
        *logs_in |= has_word_before_password(&text);
        if !is_answer && (only_begins_login(&text) || !has_password(&text)) {
            return false;
        }
        let why = if std::str::from_utf8(bytes).is_err() {
            "it is no text"
        } else if step.contains_key("expect") && text.contains('$') {
            "$ in it is replaced by what was received, and in a Secret it is not"
        } else {
            let source = CredentialSource::Inline(with_newline_kept(&text));
            let at = (send.line(), send.path.as_str());
            let reference = self.settings.secrets.add("send", source, at, self.reporter);
            step.insert("sendSecretRef".to_owned(), reference);
            return true;
        };
        let message = format!(
            "may have a password in it, and stays in the target in plain text, since {why}: write the password as sendSecretRef in a step \
             of its own, or restrict who may read targets"
        );
        self.reporter.remark(send.line(), &send.path, message);
        false
    }

    fn step_labels(&mut self, step: &mut Block<'_>) -> Vec<Value> {
        let mut labels = Vec::new();
        for item in step.list("labels", self.reporter) {
            let Some(mut inner) = Block::open(item.node, &item.path, self.reporter) else { continue };
            let name = inner.filled("name", self.reporter);
            let value = inner.text("value", self.reporter);
            inner.close(self.reporter);
            match name {
                Some(name) if is_label_name(&name.value) => {
                    labels.push(
                        json!({ "name": name.value, "value": value.map(|value| value.value).unwrap_or_default() }),
                    );
                }
                Some(name) => {
                    let message = format!("{} is no name of a label", quoted(&name.value));
                    self.reporter.fault(name.line(), &name.path, message);
                }
                None => self.reporter.fault(item.line(), &item.path, "a label needs a name and a value"),
            }
        }
        labels
    }

    /// The bytes of a scalar: those of its text, or those that it encodes.
    fn bytes(&mut self, field: &BlockField<'_, ()>) -> Option<Vec<u8>> {
        let Node { data, .. } = field.node;
        if let Data::Binary(encoded) = data {
            let bytes = decode_binary(encoded);
            if bytes.is_none() {
                self.reporter.fault(field.line(), &field.path, "is not base64");
            }
            return bytes;
        }
        let text = field.node.scalar();
        if text.is_none() {
            self.reporter.wrong_type(field.node, &field.path, "a text");
        }
        text.map(|text| text.as_bytes().to_vec())
    }
}

/// Bytes as text where a manifest can hold them and a reader recognizes them, else in base64.
fn put_bytes(step: &mut Map<String, Value>, [plain, encoded]: [&str; 2], bytes: &[u8]) {
    let is_text = |text: &&str| text.chars().all(|c| !c.is_control() || matches!(c, '\t' | '\r' | '\n'));
    let (field, text) = match std::str::from_utf8(bytes).ok().filter(is_text) {
        Some(text) => (plain, text.to_owned()),
        None => (encoded, STANDARD.encode(bytes)),
    };
    step.insert(field.to_owned(), json!(text));
}
