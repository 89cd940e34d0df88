//! The table of good and bad manifests, `tests/manifests/*.yaml`, by our own rules and by kube's reading of our CEL.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use kube::core::cel::{CompiledSchema, ErrorKind, ValidationError, Validator, apply_defaults, compile_schema};
use scrapetarget_exporter::crd::{self, rules};
use serde_json::Value;
use support::manifests::{Case, Expect, table};

fn judged(manifest: &Value) -> Vec<String> {
    crd::judge(manifest).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

/// The sentences of the rules that kube's CEL refuses the manifest with.
fn refused_by_cel(schema: &Value, compiled: &CompiledSchema, manifest: &Value) -> BTreeSet<String> {
    let mut object = manifest.clone();
    drop_nulls(&mut object);
    let object = apply_defaults(schema, &object);
    let errors = Validator::new().validate_compiled(compiled, &object, None).err();
    // A rule that fails by an error of its own is answered with its sentence by the API server, too.
    let sentence = |error: &ValidationError| {
        let failed = rules::all()
            .iter()
            .find(|rule| error.kind == ErrorKind::EvaluationError && rule.expression() == error.rule);
        failed.map_or_else(|| error.message.clone(), |rule| rule.message.clone())
    };
    errors.into_iter().flatten().map(|error| sentence(&error)).collect()
}

/// What the API server does first; kube's CEL leaves it to others.
fn drop_nulls(value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, field| !field.is_null());
        fields.values_mut().for_each(drop_nulls);
    }
}

#[test]
fn every_manifest_gets_the_answer_that_stands_before_it() {
    let mut wrong = Vec::new();
    for Case { place, expect, manifest, .. } in table() {
        let problems = judged(&manifest);
        let right = match &expect {
            Expect::Good => problems.is_empty(),
            Expect::Refused(sentence) | Expect::RefusedOffline(sentence) => {
                problems.iter().any(|problem| problem.contains(sentence))
            }
        };
        if !right {
            wrong.push(format!("{place}: {expect:?}, but {problems:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_bad_manifest_has_one_problem_and_not_a_crowd() {
    // An answer of five sentences about one slip helps nobody.
    let crowds: Vec<String> = table()
        .iter()
        .map(|case| (case, judged(&case.manifest)))
        .filter(|(_, problems)| problems.len() > 1)
        .map(|(case, problems)| format!("{}: {problems:?}", case.place))
        .collect();
    assert_eq!(crowds, Vec::<String>::new());
}

#[test]
fn cel_gives_the_same_answers() {
    let schema = crd::openapi();
    let compiled = compile_schema(&schema);
    let sentences: BTreeSet<&str> = rules::all().iter().map(|rule| rule.message.as_str()).collect();
    for Case { place, expect, manifest, .. } in table() {
        let refused = refused_by_cel(&schema, &compiled, &manifest);
        match expect {
            Expect::Good => assert_eq!(refused, BTreeSet::new(), "{place}"),
            Expect::Refused(sentence) if sentences.iter().any(|rule| rule.contains(&sentence)) => {
                assert!(refused.iter().any(|message| message.contains(&sentence)), "{place}: {refused:?}");
            }
            Expect::Refused(_) | Expect::RefusedOffline(_) => {}
        }
    }
}

#[test]
fn every_rule_refuses_something_in_the_table() {
    let mut unused: BTreeMap<&str, &str> =
        rules::all().iter().map(|rule| (rule.message.as_str(), rule.cel.as_str())).collect();
    for case in table() {
        if let Expect::Refused(sentence) = case.expect {
            unused.retain(|message, _| !message.contains(&sentence));
        }
    }
    assert!(unused.is_empty(), "{unused:#?}");
}

#[test]
fn defaults_are_filled_in_as_kubernetes_does() {
    let schema = crd::openapi();
    for case in table().iter().filter(|case| case.expect == Expect::Good && !case.manifest.to_string().contains("null"))
    {
        let ours = serde_json::to_value(&*crd::judge(&case.manifest).unwrap()).unwrap();
        let theirs: crd::ScrapeTarget = serde_json::from_value(apply_defaults(&schema, &case.manifest)).unwrap();
        assert_eq!(ours, serde_json::to_value(theirs).unwrap(), "{}", case.place);
    }
}
