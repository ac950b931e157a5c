//! Which pods' links have the programs that serve SCTP: all of them while somebody needs it, and none otherwise.

use std::collections::BTreeSet;

/// What is to be done to the link of a pod with this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodLinkStep {
    /// Attach the programs, in the place of an earlier agent's.
    Serve(u32),
    /// Take them away; there may be none.
    Release(u32),
}

/// What this agent has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PodLinks {
    /// Nothing: an earlier agent may have left programs, which go on.
    #[default]
    Unknown,
    /// No link has programs.
    Released,
    /// These have the programs of this agent.
    Served(BTreeSet<u32>),
}

impl PodLinks {
    /// Whether links have to be looked at although there is no other pod.
    pub fn is_news(&self, is_needed: bool) -> bool {
        !matches!((self, is_needed), (Self::Served(_), true) | (Self::Released, false))
    }

    /// What is to be done where these links are there.
    pub fn plan(&self, present: &BTreeSet<u32>, is_needed: bool) -> Vec<PodLinkStep> {
        let steps =
            |links: &mut dyn Iterator<Item = &u32>, step: fn(u32) -> PodLinkStep| links.copied().map(step).collect();
        match (self, is_needed) {
            (Self::Served(served), true) => steps(&mut present.difference(served), PodLinkStep::Serve),
            (Self::Unknown | Self::Released, true) => steps(&mut present.iter(), PodLinkStep::Serve),
            (Self::Served(served), false) => steps(&mut present.intersection(served), PodLinkStep::Release),
            (Self::Unknown, false) => steps(&mut present.iter(), PodLinkStep::Release),
            (Self::Released, false) => Vec::new(),
        }
    }

    /// What is so when that has been done, but to links that refused it: those are asked again at the next look.
    pub fn settled(self, present: &BTreeSet<u32>, refused: &BTreeSet<u32>, is_needed: bool) -> Self {
        match (is_needed, refused.is_empty()) {
            (true, _) => Self::Served(present - refused),
            (false, true) => Self::Released,
            (false, false) => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn links_are_served_while_somebody_needs_it() {
        use PodLinkStep::{Release, Serve};
        let links = |indices: &[u32]| indices.iter().copied().collect::<BTreeSet<u32>>();
        let mut known = PodLinks::Unknown;
        for (present, is_needed, steps) in [
            // An earlier agent may have served what nobody needs any more.
            (links(&[2, 3]), false, vec![Release(2), Release(3)]),
            (links(&[2, 3, 4]), false, vec![]),
            (links(&[2, 3, 4]), true, vec![Serve(2), Serve(3), Serve(4)]),
            (links(&[2, 4, 5]), true, vec![Serve(5)]),
            (links(&[2, 5, 6]), false, vec![Release(2), Release(5)]),
            (links(&[2, 5, 6]), false, vec![]),
        ] {
            assert_eq!(known.plan(&present, is_needed), steps, "{known:?}");
            known = known.settled(&present, &BTreeSet::new(), is_needed);
            assert!(!known.is_news(is_needed) && known.is_news(!is_needed));
        }
        let present = links(&[2, 3]);
        let again = PodLinks::Unknown.plan(&present, true);
        assert_eq!(
            again,
            [Serve(2), Serve(3)],
            "the programs of an earlier agent are exchanged"
        );
    }

    #[test]
    fn a_link_that_refuses_is_asked_again() {
        use PodLinkStep::{Release, Serve};
        let (present, refused) = (BTreeSet::from([2, 3]), BTreeSet::from([3]));
        let served = PodLinks::Unknown.settled(&present, &refused, true);
        assert_eq!(served.plan(&present, true), [Serve(3)]);
        let served = served.settled(&present, &BTreeSet::new(), true);
        let still = served.settled(&present, &refused, false);
        assert_eq!(still.plan(&present, false), [Release(2), Release(3)]);
        assert!(still.is_news(false));
    }

    proptest! {
        /// Whatever comes and goes, the links that are there have programs exactly while they are needed.
        #[test]
        fn a_link_has_programs_exactly_while_they_are_needed(
            left in prop::collection::btree_set(0..8_u32, 0..8),
            looks in prop::collection::vec((prop::collection::btree_set(0..8_u32, 0..8), any::<bool>()), 1..8),
        ) {
            let (mut known, mut have) = (PodLinks::Unknown, left);
            for (present, is_needed) in looks {
                // Programs go with their link.
                have.retain(|link| present.contains(link));
                for step in known.plan(&present, is_needed) {
                    match step {
                        PodLinkStep::Serve(link) => have.insert(link),
                        PodLinkStep::Release(link) => have.remove(&link),
                    };
                }
                known = known.settled(&present, &BTreeSet::new(), is_needed);
                prop_assert_eq!(&have, if is_needed { &present } else { &EMPTY });
            }
        }
    }

    static EMPTY: BTreeSet<u32> = BTreeSet::new();
}
