//! `docs/support.md` against the victims there are: it names none that does not exist, and forgets none.
use ghost_tests::catalogue::{self, Victim};
use ghost_tests::programs;

const PAGE: &str = include_str!("../../../docs/support.md");

fn victims() -> Vec<Victim> {
    let programs = programs::find().expect("the binaries are there");
    catalogue::victims(&programs.victim).expect("the victims are listed")
}

/// The words in backquotes that are `area/victim`, with a `*` at the end or not.
fn named(victims: &[Victim]) -> Vec<&'static str> {
    let areas: Vec<&str> = victims.iter().filter_map(|v| v.name.split_once('/')).map(|(area, _)| area).collect();
    let quoted = PAGE.split('`').skip(1).step_by(2);
    quoted.filter(|word| word.split_once('/').is_some_and(|(area, _)| areas.contains(&area))).collect()
}

fn fits(word: &str, victim: &str) -> bool {
    word.strip_suffix('*').map_or(word == victim, |start| victim.starts_with(start))
}

#[test]
fn every_victim_on_the_page_exists_and_every_victim_is_on_the_page() {
    let victims = victims();
    let named = named(&victims);
    let unknown: Vec<_> = named.iter().filter(|w| !victims.iter().any(|v| fits(w, &v.name))).collect();
    assert!(unknown.is_empty(), "docs/support.md names victims that do not exist: {unknown:?}");
    let missing: Vec<_> = victims.iter().map(|v| &v.name).filter(|v| !named.iter().any(|w| fits(w, v))).collect();
    assert!(missing.is_empty(), "docs/support.md has no row for these victims: {missing:?}");
}

#[test]
fn every_kind_that_a_victim_is_refused_by_is_on_the_page() {
    // Victims ask for `outsider` where the kind's name says what it is that leads outside: a pipe.
    let kinds = victims().iter().filter_map(|v| v.value("refuse").map(str::to_owned)).collect::<Vec<_>>();
    let on_page = |kind: &str| PAGE.contains(&format!("**{kind}**"));
    let missing: Vec<_> = kinds.iter().filter(|k| !on_page(k) && k.as_str() != "outsider").collect();
    assert!(missing.is_empty(), "docs/support.md does not have these kinds in bold: {missing:?}");
}

#[test]
fn every_part_of_a_process_has_a_row() {
    let last = [("A", 12), ("B", 5), ("C", 7), ("D", 8), ("E", 4), ("F", 2), ("G", 3), ("H", 3)];
    let rows = last.iter().flat_map(|(letter, n)| (1..=*n).map(move |i| format!("\n| {letter}{i} |")));
    let missing: Vec<_> = rows.filter(|row| PAGE.matches(row.as_str()).count() != 1).collect();
    assert!(missing.is_empty(), "rows that are not there exactly once: {missing:?}");
}
