//! What the administrator sets for the ServiceMonitors of all targets, and how far a target may depart from it: it may lower a limit and
//! renounce a permission, and never the reverse. Pure.
//!
//! Values are parsed here, so that no ServiceMonitor has one that the Operator or Prometheus refuses: the Operator leaves such a
//! ServiceMonitor out and says so in an event only, and Prometheus keeps its old configuration, for all targets.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::policy;
use crate::crd::{self, Monitor, Relabeling, RelabelingList};
use crate::k8s::settings::SettingsError;

/// Settings of the ServiceMonitors of all targets. A limit of 0 is none, as for Prometheus.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MonitorDefaults {
    /// Relabelings after those of the target.
    pub relabelings: Vec<Relabeling>,
    /// Relabelings of samples after those of the target.
    pub metric_relabelings: Vec<Relabeling>,
    /// Whether labels of a response may win over those of discovery.
    pub honor_labels: HonorLabels,
    /// The proxy through which Prometheus scrapes us. Targets cannot choose one.
    pub proxy_url: Option<ScrapeProxy>,
    /// How many endpoints a scrape job may have.
    pub target_limit: u32,
    /// How many labels a sample may have.
    pub label_limit: u32,
    /// How long the name of a label may be.
    pub label_name_length_limit: u32,
    /// How long the value of a label may be.
    pub label_value_length_limit: u32,
    /// How large a response may be, uncompressed.
    pub body_size_limit: BodySize,
}

/// What is in force for one target.
#[derive(Debug, Default, PartialEq)]
pub(super) struct EffectiveSettings {
    pub(super) honor_labels: bool,
    /// Fields of `spec`.
    pub(super) limits: Map<String, Value>,
    /// Why something that the target declares has no effect, a sentence each.
    pub(super) ignored: Vec<String>,
}

impl MonitorDefaults {
    /// The stricter of these settings and those of a target.
    pub(super) fn narrowed_by(&self, monitor: &Monitor) -> EffectiveSettings {
        let mut effective = EffectiveSettings::default();
        effective.honor_labels = match (self.honor_labels, monitor.honor_labels) {
            (HonorLabels::Never, Some(true)) => {
                effective.ignored.push(
                    "spec.monitor.honorLabels has no effect, because discovery.honorLabels of the installation is never".to_owned(),
                );
                false
            }
            (HonorLabels::Never, _) | (HonorLabels::Declared, None) => false,
            (HonorLabels::ByDefault, None) => true,
            (HonorLabels::Declared | HonorLabels::ByDefault, Some(honor)) => honor,
        };
        for (field, wanted, most) in [
            ("labelLimit", monitor.label_limit, self.label_limit),
            ("labelNameLengthLimit", monitor.label_name_length_limit, self.label_name_length_limit),
            ("labelValueLengthLimit", monitor.label_value_length_limit, self.label_value_length_limit),
        ] {
            effective.limit(field, wanted.unwrap_or_default(), most);
        }
        let wanted = monitor.body_size_limit.as_deref().and_then(crd::body_size).unwrap_or_default();
        effective.limit("bodySizeLimit", BodySize(wanted), self.body_size_limit);
        if self.target_limit > 0 {
            effective.limits.insert("targetLimit".to_owned(), json!(self.target_limit));
        }
        effective
    }
}

impl EffectiveSettings {
    /// Adds the lower of two limits, of which each may be none: 0.
    fn limit<T: Copy + Default + Ord + fmt::Display + Into<Value>>(&mut self, field: &str, wanted: T, most: T) {
        let none = T::default();
        if most != none && wanted > most {
            self.ignored.push(format!(
                "spec.monitor.{field} is {wanted}, and the installation allows {most}, which is in force: write {most} or less"
            ));
        }
        let limit = if wanted == none || most == none { wanted.max(most) } else { wanted.min(most) };
        if limit != none {
            self.limits.insert(field.to_owned(), limit.into());
        }
    }
}

/// Whose series may have labels that win over those of discovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HonorLabels {
    /// Those of targets with `monitor.honorLabels: true`.
    #[default]
    Declared,
    /// Those of all targets, except those with `monitor.honorLabels: false`.
    ByDefault,
    /// Nobody's.
    Never,
}

impl FromStr for HonorLabels {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        match text {
            "declared" => Ok(Self::Declared),
            "byDefault" => Ok(Self::ByDefault),
            "never" => Ok(Self::Never),
            _ => Err(SettingsError::expected("declared, byDefault or never")),
        }
    }
}

/// A number of bytes: `0` or a text with a unit. The Operator refuses a number without unit, and Prometheus one that has more than 63 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BodySize(u64);

impl FromStr for BodySize {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let bytes = if text == "0" { Some(0) } else { crd::body_size(text) };
        bytes.map(Self).ok_or(SettingsError::expected(
            "a whole number with one of the units B, KB, MB, GB, KiB, MiB and GiB, where 1 KB is 1024 bytes, for instance 16MB; 0 is no limit",
        ))
    }
}

impl fmt::Display for BodySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB"), (0, "B")];
        let fits = units.into_iter().find(|(shift, _)| self.0.trailing_zeros() >= *shift);
        match fits.filter(|_| self.0 > 0) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => f.write_str("0"),
        }
    }
}

impl From<BodySize> for Value {
    fn from(size: BodySize) -> Self {
        Self::String(size.to_string())
    }
}

/// The URL of a proxy, without user and password: everyone who may read ServiceMonitors can read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeProxy(String);

impl ScrapeProxy {
    /// As a ServiceMonitor has it.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ScrapeProxy {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        // The Operator does not know this scheme.
        let fine = crd::is_proxy_url(text) && !text.starts_with("socks5h:");
        fine.then(|| Self(text.to_owned())).ok_or(SettingsError::expected(
            "the URL of an http, https or socks5 proxy, without user, password and path, for instance http://proxy.example.com:3128",
        ))
    }
}

/// Relabelings of all targets, from a JSON list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DefaultRelabelings(Vec<Relabeling>);

impl DefaultRelabelings {
    /// Parses the list by the rules for those of a target: the labels that say whose series these are, belong to the exporter.
    pub fn parse(list: RelabelingList, text: &str) -> Result<Self, String> {
        let steps: Value = serde_json::from_str(text).map_err(|error| {
            format!("{error}; write a JSON list, for instance [{{\"targetLabel\": \"cluster\", \"replacement\": \"tokyo\"}}]")
        })?;
        let steps = crd::judge_relabelings(list, &steps)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        if policy::variable_path(&json!(steps), "").is_some() {
            return Err(
                "it holds \"$(\", which the config reloader of Prometheus would expand as an environment variable: write it differently"
                    .to_owned(),
            );
        }
        Ok(Self(steps))
    }

    /// The relabelings.
    pub fn into_inner(self) -> Vec<Relabeling> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(defaults: &MonitorDefaults, monitor: &Value) -> (Value, Vec<String>) {
        let effective = defaults.narrowed_by(&serde_json::from_value(monitor.clone()).unwrap());
        (Value::Object(effective.limits), effective.ignored)
    }

    #[test]
    fn without_defaults_a_target_has_the_limits_that_it_declares_and_no_other() {
        let none = MonitorDefaults::default();
        assert_eq!(limits(&none, &json!({})), (json!({}), Vec::new()));
        let own = json!({ "labelLimit": 30, "labelNameLengthLimit": 64, "labelValueLengthLimit": 512, "bodySizeLimit": "10MB" });
        let written = json!({ "labelLimit": 30, "labelNameLengthLimit": 64, "labelValueLengthLimit": 512, "bodySizeLimit": "10MiB" });
        assert_eq!(limits(&none, &own), (written, Vec::new()));
    }

    #[test]
    fn a_limit_over_that_of_the_installation_is_told_with_both_and_the_lower_one_is_in_force() {
        let defaults = MonitorDefaults {
            target_limit: 5,
            label_limit: 30,
            body_size_limit: "1MB".parse().unwrap(),
            ..MonitorDefaults::default()
        };
        let (written, ignored) = limits(&defaults, &json!({ "labelLimit": 31, "bodySizeLimit": "2048KiB" }));
        assert_eq!(written, json!({ "targetLimit": 5, "labelLimit": 30, "bodySizeLimit": "1MiB" }));
        assert_eq!(
            ignored,
            [
                "spec.monitor.labelLimit is 31, and the installation allows 30, which is in force: write 30 or less",
                "spec.monitor.bodySizeLimit is 2MiB, and the installation allows 1MiB, which is in force: write 1MiB or less",
            ]
        );
    }

    #[test]
    fn honor_labels_is_granted_by_the_installation_and_renounced_by_a_target() {
        use HonorLabels::{ByDefault, Declared, Never};
        for (installation, target, honors, told) in [
            (Declared, None, false, false),
            (Declared, Some(true), true, false),
            (Declared, Some(false), false, false),
            (ByDefault, None, true, false),
            (ByDefault, Some(true), true, false),
            (ByDefault, Some(false), false, false),
            (Never, None, false, false),
            (Never, Some(true), false, true),
            (Never, Some(false), false, false),
        ] {
            let defaults = MonitorDefaults { honor_labels: installation, ..MonitorDefaults::default() };
            let effective = defaults.narrowed_by(&Monitor { honor_labels: target, ..Monitor::default() });
            let found = (effective.honor_labels, !effective.ignored.is_empty());
            assert_eq!(found, (honors, told), "{installation:?} {target:?}");
        }
    }

    #[test]
    fn sizes_are_written_as_the_operator_and_prometheus_read_them() {
        for (text, written) in [
            ("0", "0"),
            ("1B", "1B"),
            ("1024B", "1KiB"),
            ("1536KB", "1536KiB"),
            ("16MB", "16MiB"),
            ("16MiB", "16MiB"),
            ("999999999GB", "999999999GiB"),
        ] {
            assert_eq!(text.parse::<BodySize>().unwrap().to_string(), written, "{text}");
        }
        for text in ["", "1", "01KB", "1.5MB", "0MB", "-1B", "16M", "16mb", "16 MB", "1TB", "9999999999B", "16EB"] {
            assert!(text.parse::<BodySize>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_proxy_has_no_user_and_a_scheme_that_the_operator_knows() {
        for good in
            ["http://proxy:3128", "https://proxy.example.com", "socks5://10.0.0.1:1080/", "http://[fd00::1]:3128"]
        {
            assert!(good.parse::<ScrapeProxy>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "proxy:3128",
            "ftp://proxy",
            "socks5h://proxy",
            "http://me:secret@proxy",
            "http://$(HOME)",
            "http://proxy/x",
        ] {
            assert!(bad.parse::<ScrapeProxy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn relabelings_of_all_targets_follow_the_rules_for_those_of_one() {
        let parse = |list, text: &str| DefaultRelabelings::parse(list, text);
        let step =
            r#"[{"targetLabel": "cluster", "replacement": "tokyo"}, {"action": "LabelDrop", "regex": "rack_.*"}]"#;
        for list in [RelabelingList::Targets, RelabelingList::Samples] {
            assert_eq!(parse(list, step).unwrap().into_inner().len(), 2);
            assert!(parse(list, "[]").unwrap().into_inner().is_empty());
            for (text, told) in [
                ("", "write a JSON list"),
                ("{}", "write a list"),
                (r#"[{"targetLable": "a"}]"#, "did you mean \"targetLabel\"?"),
                (r#"[{"targetLabel": "__address__", "replacement": "x:80"}]"#, "[0].targetLabel: "),
                (r#"[{"targetLabel": "namespace", "replacement": "x"}]"#, "[0].targetLabel: "),
                (r#"[{"action": "labelmap", "regex": "a(.*)"}]"#, "[0].action: "),
                (r#"[{"action": "labeldrop", "regex": "target_.*"}]"#, "[0].regex: "),
                (r#"[{"action": "keep", "regex": "a(", "sourceLabels": ["a"]}]"#, "unclosed group"),
                (r#"[{"action": "replaced"}]"#, "supported values"),
                (r#"[{"targetLabel": "pod", "replacement": "x"}]"#, "the labels pod and member"),
                (r#"[{"targetLabel": "a", "replacement": "$(HOME)"}]"#, "$("),
                (r#"[{"targetLabel": "a", "sourceLabels": ["$(HOME)"]}]"#, "$("),
            ] {
                let error = parse(list, text).unwrap_err();
                assert!(error.contains(told) && !error.contains("spec."), "{text}: {error}");
            }
        }
    }

    fn monitor() -> impl Strategy<Value = Value> {
        let number = || prop::option::of(6_u32..2000);
        let unit = prop::sample::select(vec!["B", "KB", "MiB", "GB"]);
        let size = prop::option::of((1_u32..5000, unit).prop_map(|(number, unit)| format!("{number}{unit}")));
        (number(), number(), number(), size, any::<Option<bool>>()).prop_map(|(labels, names, values, size, honor)| {
            let mut fields = json!({
                "labelLimit": labels, "labelNameLengthLimit": names, "labelValueLengthLimit": values, "bodySizeLimit": size,
                "honorLabels": honor,
            });
            fields.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            fields
        })
    }

    /// The limit in a spec; none is without end.
    fn most(limits: &Map<String, Value>, field: &str) -> u64 {
        match limits.get(field) {
            Some(Value::String(text)) => text.parse::<BodySize>().unwrap().0,
            Some(number) => number.as_u64().unwrap(),
            None => u64::MAX,
        }
    }

    proptest! {
        #[test]
        fn a_target_never_widens(
            limits in prop::array::uniform4(prop_oneof![Just(0_u32), 1_u32..2000]),
            size in prop_oneof![Just(0_u64), 1_u64..1_000_000_000],
            honor in prop::sample::select(vec![HonorLabels::Declared, HonorLabels::ByDefault, HonorLabels::Never]),
            monitor in monitor(),
        ) {
            let [target_limit, label_limit, label_name_length_limit, label_value_length_limit] = limits;
            let defaults = MonitorDefaults {
                target_limit, label_limit, label_name_length_limit, label_value_length_limit,
                body_size_limit: BodySize(size),
                honor_labels: honor,
                ..MonitorDefaults::default()
            };
            let declared: Monitor = serde_json::from_value(monitor.clone()).unwrap();
            let effective = defaults.narrowed_by(&declared);
            let without = defaults.narrowed_by(&Monitor::default());
            for field in ["targetLimit", "labelLimit", "labelNameLengthLimit", "labelValueLengthLimit", "bodySizeLimit"] {
                prop_assert!(most(&effective.limits, field) <= most(&without.limits, field), "{}", field);
                let asked = most(monitor.as_object().unwrap(), field);
                prop_assert!(most(&effective.limits, field) <= asked, "{} is what the target asks for, or less", field);
            }
            prop_assert!(honor != HonorLabels::Never || !effective.honor_labels);
            prop_assert!(declared.honor_labels != Some(false) || !effective.honor_labels);
            prop_assert!(without.ignored.is_empty());
        }
    }
}
