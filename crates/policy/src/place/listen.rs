//! A primary listens to the wishes of those that depend on it.

use super::{Link, Placer};
use crate::Score;
use crate::world::{Kind, NodeIx, RscIx};

impl Placer<'_, '_> {
    /// Adds to `scores` (of a primary) what `source` wishes, weighted by `factor`, then what those wish that depend
    /// on `source`, and so on. Nothing is added if afterwards no node would be left.
    pub(super) fn add_wishes_of(
        &self,
        source: RscIx,
        link: &Link,
        scores: &mut Vec<Option<Score>>,
        factor: f64,
        only_positive: bool,
        visiting: &mut Vec<RscIx>,
    ) {
        if visiting.contains(&source) {
            return;
        }
        visiting.push(source);
        let speaker = self.speaker(source, link.primary);
        let mut sum = scores.clone();
        self.add_weighted(speaker, link, &mut sum, factor, only_positive);
        if self.any_available(&sum) {
            if speaker != source {
                visiting.push(speaker);
            }
            let mut heard: Vec<usize> = self.links_of_primary(speaker);
            if self.world[source].kind == Kind::Group {
                heard.extend(
                    self.as_primary[source.0]
                        .iter()
                        .filter(|i| !heard.contains(i))
                        .copied()
                        .collect::<Vec<_>>(),
                );
            }
            for i in heard {
                let next = &self.links[i];
                if !next.influence || next.dependent_role.is_some() {
                    continue;
                }
                let weight = factor * f64::from(next.score.value()) / 1_000_000.0;
                self.add_wishes_of(next.dependent, next, &mut sum, weight, only_positive, visiting);
            }
            if speaker != source {
                visiting.retain(|v| *v != speaker);
            }
            *scores = sum;
        }
        visiting.retain(|v| *v != source);
    }

    /// Who speaks for a resource: the first member for a group, and for its members towards the outside.
    fn speaker(&self, at: RscIx, listener: RscIx) -> RscIx {
        let first = |group: RscIx| self.world[group].children.first().copied().unwrap_or(at);
        match (self.world[at].kind, self.world[at].parent) {
            (Kind::Group, _) => first(at),
            (Kind::Primitive, Some(parent)) if self.world[parent].kind == Kind::Group => {
                if self.world[listener].parent == Some(parent) { at } else { first(parent) }
            }
            _ => at,
        }
    }

    fn add_weighted(
        &self,
        source: RscIx,
        link: &Link,
        scores: &mut [Option<Score>],
        factor: f64,
        only_positive: bool,
    ) {
        for node in self.world.node_indices() {
            let Some(old) = scores[node.0] else { continue };
            let wish = self.best_alike(source, link, node);
            // A dislike of a place the source does not want anyway is no liking.
            if factor < 0.0 && wish < Score::ZERO {
                continue;
            }
            let mut delta = (factor * f64::from(wish.value())).round() as i64;
            // Small weights must not swallow the small scores people use.
            if delta == 0 && wish != Score::ZERO {
                delta = if factor > 0.0 { 1 } else { -1 };
            }
            let sum = old + Score::new(delta);
            scores[node.0] = Some(if only_positive && sum < Score::ZERO && old > Score::ZERO {
                Score::new(1)
            } else {
                sum
            });
        }
    }

    /// The best wish of `source` among fit nodes that are like `node` for this link.
    fn best_alike(&self, source: RscIx, link: &Link, node: NodeIx) -> Score {
        let wish = |n: NodeIx| {
            if self.world[n].can_run() { self.world[source].score(n) } else { Score::NEVER }
        };
        if link.attribute.is_none() {
            return self.world[source].score(node);
        }
        self.world
            .node_indices()
            .filter(|n| self.alike(link, *n, node))
            .map(wish)
            .max()
            .unwrap_or(Score::NEVER)
    }
}
