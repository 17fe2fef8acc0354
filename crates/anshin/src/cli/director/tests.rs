use super::{args::Fields, describe};
use anshin_director::{
    Span,
    plan::{Missed, Plan, Source, VolumeForm},
};

fn fields(change: impl FnOnce(&mut Fields)) -> Fields {
    let mut fields = Fields::default();
    change(&mut fields);
    fields
}

#[test]
fn a_plan_by_options_is_the_plan_by_toml() {
    let options = fields(|fields| {
        fields.what = vec!["protected".into(), "files/web1:/etc,/srv".into(), "volume-image/data".into()];
        fields.when = vec!["mon..fri 23:00".into(), "sun 4:00".into()];
        fields.zone = Some("Europe/Berlin".into());
        fields.keep = vec!["daily=14".into(), "within=30d".into()];
        fields.missed = Some("report".into());
        fields.run_time = Some("6h".into());
    });
    let plan = describe::new("nightly", &options, Some("main".into())).unwrap();
    assert_eq!((plan.keep.daily, plan.keep.last, plan.keep.within), (14, 0, Some(Span::days(30))));
    assert_eq!((plan.missed, plan.limits.run_time), (Missed::Report, Some(Span::hours(6))));
    assert!(
        matches!(&plan.what[1], Source::Files { on, paths, .. } if on == "web1" && paths == &["/etc", "/srv"])
    );
    assert!(matches!(&plan.what[2], Source::Volume { form: VolumeForm::Image, .. }));
    assert_eq!(Plan::from_toml(&plan.to_toml()).unwrap(), [plan]);
}

#[test]
fn what_is_not_given_stays_as_it_is() {
    let mut plan = describe::new("nightly", &Fields::default(), Some("main".into())).unwrap();
    plan.when = vec!["daily 23:00".into()];
    let before = plan.clone();
    describe::change(&mut plan, &Fields::default()).unwrap();
    assert_eq!(plan, before);
    describe::change(&mut plan, &fields(|fields| fields.keep = vec!["last=2".into()])).unwrap();
    assert_eq!((plan.keep.last, plan.keep.daily, &plan.when), (2, 0, &before.when));
}

#[test]
fn nonsense_is_named_with_what_is_possible() {
    let bad = |change: fn(&mut Fields)| {
        let problem = describe::new("x", &fields(change), Some("main".into())).unwrap_err();
        assert!(problem.hint.is_some(), "{problem}");
    };
    bad(|fields| fields.what = vec!["everything".into()]);
    bad(|fields| fields.what = vec!["files/web1".into()]);
    bad(|fields| fields.what = vec!["tape/x".into()]);
    bad(|fields| fields.keep = vec!["daily".into()]);
    bad(|fields| fields.keep = vec!["fortnightly=2".into()]);
    bad(|fields| fields.missed = Some("maybe".into()));
    bad(|fields| fields.spread = Some("soon".into()));
    assert_eq!(describe::new("x", &Fields::default(), None).unwrap_err().code, "vault-unknown");
}
