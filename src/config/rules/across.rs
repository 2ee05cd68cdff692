//! Checks for conflicts between the rules of one upstream, and between the rules and the routes to it.

use super::{Affinity, LookupRule, MAX_BITS, Rule, Spot};
use crate::config::Route;
use crate::config::check::Context;
use crate::config::error::Span;
use crate::config::upstream::ReadUpstream;

/// Checks every upstream's affinities against each other and against its routes.
pub(crate) fn check(context: &Context<'_>, upstreams: &[ReadUpstream], routes: &[Route]) {
    for (index, read) in upstreams.iter().enumerate() {
        let rules = read.affinity.iter().filter_map(|(affinity, at)| Some((rule(affinity)?, at)));
        // Rules of "auto" claim only what is unmistakable.
        let rules: Vec<_> = rules.filter(|(rule, _)| rule.guard.is_none()).collect();
        for (i, (later, at)) in rules.iter().enumerate() {
            let mut earlier = rules.iter().take(i);
            if let Some((first, spot)) = earlier.find_map(|(first, _)| Some((first, shared(first, later)?))) {
                let message = format!("`{}` and `{}` both claim {spot}", first.name, later.name);
                let help = "ids found there would all belong to the first rule: use another place for one of them";
                context.report.error_help(at, message, help);
            }
        }
        bounded(context, &rules);
        let paths: Vec<_> = routes.iter().filter(|route| route.upstream == index).map(|route| &*route.path).collect();
        for (rule, at) in rules.iter().filter(|_| !paths.is_empty()) {
            never_there(context, rule, at, &paths);
        }
        follow(context, read, &rules);
    }
}

fn rule(affinity: &Affinity) -> Option<&Rule> {
    match affinity {
        Affinity::Rule(rule) => Some(rule),
        Affinity::Cookie | Affinity::Address => None,
    }
}

/// Reports more entries than a request has bits for.
fn bounded(context: &Context<'_>, rules: &[(&Rule, &Span)]) {
    let mut births = 0;
    for (rule, at) in rules {
        births += rule.learn.len();
        if births > MAX_BITS || rule.ends.len() > MAX_BITS {
            let message = format!("with `{}` there are more than {MAX_BITS} entries of `learn` or `ends`", rule.name);
            context.report.error(at, message);
            return;
        }
    }
}

/// A place that both rules look at, as it is written in the file.
fn shared(one: &Rule, other: &Rule) -> Option<String> {
    let same = |a: &LookupRule, b: &LookupRule| match (&a.at, &b.at) {
        (Spot::EngineIo, Spot::Query(name)) | (Spot::Query(name), Spot::EngineIo) => name == "sid",
        (Spot::Path(a), Spot::Path(b)) => a.written() == b.written(),
        (a, b) => a == b,
    };
    let both = one.lookup.iter().find(|a| other.lookup.iter().any(|b| same(a, b)))?;
    Some(words(&both.at))
}

fn words(spot: &Spot) -> String {
    match spot {
        Spot::Header(name) => format!("header:{name}"),
        Spot::Query(name) => format!("query:{name}"),
        Spot::Cookie(name) => format!("cookie:{name}"),
        Spot::Path(path) => format!("path:{}", path.written()),
        Spot::EngineIo => "query:sid".to_owned(),
    }
}

/// Warns of a path in a rule that no route leads to.
fn never_there(context: &Context<'_>, rule: &Rule, at: &Span, routes: &[&str]) {
    let looked = rule.lookup.iter().filter_map(|lookup| match &lookup.at {
        Spot::Path(path) => Some(path),
        Spot::Header(_) | Spot::Query(_) | Spot::Cookie(_) | Spot::EngineIo => None,
    });
    let born = rule.learn.iter().filter_map(|learn| learn.on.path.as_ref());
    let missing = looked.chain(born).find(|path| path.fixed().is_some_and(|fixed| !reachable(&fixed, routes)));
    if let Some(path) = missing {
        let message = format!("`{}` can never match here: no route leads to {}", rule.name, path.written());
        context.report.warn(at, message, format!("the routes to this upstream begin at {}", routes.join(", ")));
    }
}

fn reachable(fixed: &str, routes: &[&str]) -> bool {
    let below = |path: &str, root: &str| {
        let root = root.trim_end_matches('/');
        path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    routes.iter().any(|route| below(fixed, route) || below(route, fixed))
}

/// Checks `follow`, which needs `socket.io` and places that no rule claims.
fn follow(context: &Context<'_>, read: &ReadUpstream, rules: &[(&Rule, &Span)]) {
    let Some(at) = &read.follow else { return };
    let affinity = read.upstream.affinity.iter().filter_map(rule);
    let knows = affinity.flat_map(|rule| &rule.lookup).any(|lookup| lookup.at == Spot::EngineIo);
    if !knows {
        let help = "add \"socket.io\" to `affinity`, or remove `follow`";
        context.report.error_help(at, "`follow` needs \"socket.io\" in `affinity`", help);
    }
    let claimed = |spot: &Spot| rules.iter().find(|(rule, _)| rule.lookup.iter().any(|lookup| lookup.at == *spot));
    if let Some((spot, (rule, _))) = read.upstream.follow.iter().find_map(|spot| Some((spot, claimed(spot)?))) {
        let message = format!("`follow` and `{}` both claim {}", rule.name, words(spot));
        context.report.error_help(at, message, "ids found there belong to the rule: use another place for one of them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_leads_to_paths_below_it_only() {
        assert!(reachable("/jobs", &["/"]) && reachable("/jobs", &["/jobs"]) && reachable("", &["/api"]));
        assert!(reachable("/api/jobs", &["/x", "/api/"]) && reachable("/api", &["/api/jobs"]));
        assert!(!reachable("/jobs", &["/api"]) && !reachable("/jobs", &["/job"]) && !reachable("/job", &["/jobs"]));
    }
}
