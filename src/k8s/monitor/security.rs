//! How Prometheus proves itself to our listener and checks who we are, as far as a ServiceMonitor can carry that.
//!
//! The Operator looks for Secrets and ConfigMaps in the monitor's own namespace, and ours are in ours.

use serde_json::{Map, Value};

use super::super::{Discovery, MonitorNamespace, Scheme};
use super::unwritten::Unwritten;

/// Fields of `tlsConfig` that name objects.
const REFERENCES: [&str; 3] = ["ca", "cert", "keySecret"];

/// What an endpoint says about it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Security {
    pub(super) tls: Option<Map<String, Value>>,
    pub(super) basic_auth: Option<Map<String, Value>>,
}

/// What the endpoint of a monitor must hold; `classed`: a scrape class says the remainder.
pub(super) fn security(discovery: &Discovery, classed: bool) -> Result<Security, Unwritten> {
    let Discovery { monitor_namespace, scheme, tls, basic_auth, listener, .. } = discovery;
    let tls = tls.as_ref().filter(|_| *scheme == Scheme::Https);
    let says = |fields: &[&str]| tls.is_some_and(|tls| fields.iter().any(|field| tls.contains_key(*field)));
    let mut missing = Vec::new();
    let password = listener.users || basic_auth.is_some();
    // A scrape class of the Operator has TLS and a token, but no user and password.
    let classed = classed && (!password || (*monitor_namespace == MonitorNamespace::Release && basic_auth.is_some()));
    match monitor_namespace {
        MonitorNamespace::Release => {
            if listener.client_certificates && !says(&["cert", "certFile"]) {
                missing.push("a client certificate, which discovery.tls does not name");
            }
            if listener.users && basic_auth.is_none() {
                missing.push("a user and password, which discovery.basicAuth does not name");
            }
            if missing.is_empty() || classed {
                return Ok(Security { tls: tls.cloned(), basic_auth: basic_auth.clone() });
            }
            let needs = missing.join("; ");
            Err(Unwritten::NotPortable(format!(
                "our listener asks for {needs}: set it, or for certificates discovery.scrapeClass"
            )))
        }
        MonitorNamespace::Target => {
            if says(&REFERENCES) {
                missing.push("the Secrets or ConfigMaps of discovery.tls");
            } else if listener.client_certificates && !says(&["certFile"]) {
                missing.push("a client certificate");
            }
            if password {
                missing.push("a user and password, which no scrape class can hold");
            }
            if missing.is_empty() || classed {
                let tls = tls.map(|tls| {
                    let portable = tls.iter().filter(|(field, _)| !REFERENCES.contains(&field.as_str()));
                    portable.map(|(field, value)| (field.clone(), value.clone())).collect::<Map<_, _>>()
                });
                return Ok(Security { tls: tls.filter(|tls| !tls.is_empty()), basic_auth: None });
            }
            Err(Unwritten::NotPortable(format!(
                "Prometheus needs {} to scrape us, and a ServiceMonitor beside its target cannot refer to Secrets and ConfigMaps of \
                 another namespace: set discovery.monitorNamespace to release, or for certificates discovery.scrapeClass to a \
                 scrape class of Prometheus that has them",
                missing.join(" and ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::Listener;
    use super::*;

    fn fields(value: &Value) -> Option<Map<String, Value>> {
        value.as_object().cloned()
    }

    fn https(monitor_namespace: MonitorNamespace, tls: &Value) -> Discovery {
        Discovery { monitor_namespace, scheme: Scheme::Https, tls: fields(tls), ..Discovery::default() }
    }

    #[test]
    fn what_names_no_object_goes_along_into_any_namespace() {
        let tls = json!({ "serverName": "probe", "insecureSkipVerify": false, "minVersion": "TLS13" });
        let discovery = https(MonitorNamespace::Target, &tls);
        assert_eq!(security(&discovery, false).unwrap(), Security { tls: fields(&tls), basic_auth: None });
        let roots = https(MonitorNamespace::Target, &Value::Null);
        assert_eq!(security(&roots, false).unwrap(), Security::default());
    }

    #[test]
    fn references_go_along_only_where_the_objects_are() {
        let tls = json!({ "serverName": "probe", "ca": { "secret": { "name": "ca", "key": "ca.crt" } } });
        let basic = json!({ "username": { "name": "u", "key": "user" } });
        let beside = Discovery { basic_auth: fields(&basic), ..https(MonitorNamespace::Target, &tls) };
        let refused = security(&beside, false).unwrap_err();
        assert!(matches!(&refused, Unwritten::NotPortable(why) if why.contains("monitorNamespace to release")));
        let rest = Security { tls: fields(&json!({ "serverName": "probe" })), basic_auth: None };
        assert!(security(&beside, true).is_err(), "a scrape class has no user and password");
        let certified = Discovery { basic_auth: None, ..beside.clone() };
        assert_eq!(security(&certified, true).unwrap(), rest, "the scrape class has the authority");
        let with_us = Discovery { monitor_namespace: MonitorNamespace::Release, ..beside.clone() };
        let all = Security { tls: fields(&tls), basic_auth: beside.basic_auth };
        assert_eq!(security(&with_us, false).unwrap(), all);
    }

    #[test]
    fn what_our_listener_asks_for_must_come_from_somewhere() {
        let listeners = [
            Listener { tls: true, client_certificates: true, users: false },
            Listener { tls: true, client_certificates: false, users: true },
        ];
        for listener in listeners {
            for place in [MonitorNamespace::Target, MonitorNamespace::Release] {
                let discovery = Discovery { listener, ..https(place, &json!({ "serverName": "probe" })) };
                assert!(matches!(security(&discovery, false), Err(Unwritten::NotPortable(_))), "{discovery:?}");
                assert_eq!(security(&discovery, true).is_ok(), !listener.users, "{discovery:?}");
            }
        }
        let files = json!({ "certFile": "/etc/prometheus/tls.crt", "keyFile": "/etc/prometheus/tls.key" });
        let discovery = Discovery { listener: listeners[0], ..https(MonitorNamespace::Target, &files) };
        assert!(security(&discovery, false).is_ok(), "files are those of Prometheus, in any namespace");
    }

    #[test]
    fn tls_is_not_spoken_of_where_we_are_scraped_in_clear() {
        let tls = json!({ "ca": { "secret": { "name": "ca", "key": "ca.crt" } } });
        let discovery = Discovery { scheme: Scheme::Http, ..https(MonitorNamespace::Target, &tls) };
        assert_eq!(security(&discovery, false).unwrap(), Security::default());
    }
}
