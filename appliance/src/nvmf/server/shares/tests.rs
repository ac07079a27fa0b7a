//! The policy under any sequence of events: never more than the budget, no waiter is forgotten, and
//! nobody exceeds its share while another waits.

use proptest::prelude::*;

use super::*;

const COMMAND: usize = 8;

#[derive(Debug, Clone, Copy)]
enum Event {
    Ask { member: usize, len_bytes: usize },
    Release { member: usize, at: usize },
    Withdraw { member: usize },
    Replace { member: usize },
}

fn event() -> impl Strategy<Value = Event> {
    let member = 0..MEMBERS;
    prop_oneof![
        6 => (member.clone(), 1..=COMMAND).prop_map(|(member, len_bytes)| Event::Ask { member, len_bytes }),
        3 => (member.clone(), any::<usize>()).prop_map(|(member, at)| Event::Release { member, at }),
        1 => member.clone().prop_map(|member| Event::Withdraw { member }),
        1 => member.prop_map(|member| Event::Replace { member }),
    ]
}

const MEMBERS: usize = 12;
const GROUPS: usize = 4;
const BUDGET: usize = 64;

/// Members, the pieces that each holds, and what each wants.
struct Model {
    shares: Shares,
    members: Vec<MemberId>,
    groups: Vec<GroupId>,
    held: Vec<Vec<usize>>,
    wanted: Vec<Option<usize>>,
}

impl Model {
    fn new() -> Self {
        let mut shares = Shares::new(BUDGET, COMMAND);
        let mut groups = Vec::new();
        let members = (0..MEMBERS)
            .map(|index| {
                let (member, group) = shares.join(groups.get(index % GROUPS).copied());
                if index < GROUPS {
                    groups.push(group);
                }
                member
            })
            .collect();
        Model { shares, members, groups, held: vec![Vec::new(); MEMBERS], wanted: vec![None; MEMBERS] }
    }

    fn held_by(&self, member: usize) -> usize {
        self.held[member].iter().sum()
    }

    fn held_by_group(&self, group: usize) -> usize {
        (group..MEMBERS).step_by(GROUPS).map(|member| self.held_by(member)).sum()
    }

    fn is_active(&self, member: usize) -> bool {
        self.held_by(member) > 0 || self.wanted[member].is_some()
    }

    fn share_of(&self, member: usize) -> (usize, usize) {
        let members = |group: usize| (group..MEMBERS).step_by(GROUPS).filter(|one| self.is_active(*one));
        let groups = (0..GROUPS).filter(|group| members(*group).next().is_some()).count();
        let share = BUDGET / 2 / groups.max(1);
        (share / members(member % GROUPS).count().max(1), share)
    }

    fn ask(&mut self, member: usize, len_bytes: usize) -> bool {
        let before = self.held_by(member);
        let others_wait = (0..MEMBERS).any(|other| other != member && self.wanted[other].is_some());
        let (share, group_share) = self.share_of(member);
        let group_before = self.held_by_group(member % GROUPS);
        let granted = self.shares.ask(self.members[member], len_bytes);
        self.wanted[member] = Some(len_bytes).filter(|_| !granted);
        if granted {
            if before > 0 && others_wait {
                assert!(before < share, "{before} of {share} while another waits");
                assert!(group_before < group_share, "{group_before} of {group_share} while another waits");
            }
            self.held[member].push(len_bytes);
        }
        self.check();
        granted
    }

    fn give_back(&mut self, member: usize, at: usize) {
        if self.held[member].is_empty() {
            return;
        }
        let at = at % self.held[member].len();
        let len_bytes = self.held[member].swap_remove(at);
        self.shares.release(self.members[member], len_bytes);
        self.check();
    }

    fn check(&self) {
        let held: usize = (0..MEMBERS).map(|member| self.held_by(member)).sum();
        assert_eq!(self.shares.held_bytes(), held);
        assert!(held <= BUDGET, "{held} held");
        assert_eq!(self.shares.waiting(), self.wanted.iter().flatten().count());
        let active = (0..MEMBERS).filter(|member| self.is_active(*member)).count();
        assert_eq!(self.shares.groups.iter().map(|group| group.active).sum::<usize>(), active);
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Ask { member, len_bytes } => {
                self.ask(member, len_bytes);
            }
            Event::Release { member, at } => self.give_back(member, at),
            Event::Withdraw { member } => {
                self.shares.withdraw(self.members[member]);
                self.wanted[member] = None;
            }
            Event::Replace { member } => {
                self.shares.leave(self.members[member]);
                (self.held[member], self.wanted[member]) = (Vec::new(), None);
                let (id, group) = self.shares.join(Some(self.groups[member % GROUPS]));
                (self.members[member], self.groups[member % GROUPS]) = (id, group);
            }
        }
        self.check();
    }
}

proptest! {
    #[test]
    fn the_budget_holds_and_nobody_overtakes(events in proptest::collection::vec(event(), 0..200)) {
        let mut model = Model::new();
        for event in events {
            model.apply(event);
        }
    }

    /// Whoever holds memory, and however often the others ask: a member that holds nothing has its
    /// memory when as much was released as was held.
    #[test]
    fn who_holds_nothing_is_served_in_the_end(
        events in proptest::collection::vec(event(), 0..200),
        starving in 0..MEMBERS,
        order in any::<u64>(),
    ) {
        let mut model = Model::new();
        for event in events {
            model.apply(event);
        }
        while !model.held[starving].is_empty() {
            model.give_back(starving, 0);
        }
        let mut random = order | 1;
        let mut releases = 0;
        // In each turn all ask, in a random order. Memory that was granted is released later.
        while !model.ask(starving, COMMAND) {
            let in_front = model.shares.line.iter().position(|id| *id == model.members[starving]);
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            for offset in 0..MEMBERS {
                let member = (offset + (random >> 40) as usize) % MEMBERS;
                if member != starving {
                    model.ask(member, 1 + (random >> 33) as usize % COMMAND);
                }
            }
            let holders: Vec<usize> = (0..MEMBERS).filter(|one| !model.held[*one].is_empty()).collect();
            prop_assert!(!holders.is_empty(), "it waits for nobody, at {in_front:?}");
            model.give_back(holders[(random >> 37) as usize % holders.len()], 0);
            releases += 1;
            prop_assert!(releases < 4 * MEMBERS * BUDGET, "{releases} releases");
        }
    }

    /// A group that holds nothing does not wait for others that hold all the memory they may have.
    #[test]
    fn a_newcomer_starts_at_once_whatever_one_group_holds(
        sizes in proptest::collection::vec(1..=COMMAND, 1..400),
        wanted in 1..=COMMAND,
    ) {
        let mut shares = Shares::new(BUDGET, COMMAND);
        let (first, group) = shares.join(None);
        let mut greedy = vec![first];
        for (turn, len_bytes) in sizes.into_iter().enumerate() {
            if turn % 3 == 0 {
                greedy.push(shares.join(Some(group)).0);
            }
            shares.ask(greedy[turn % greedy.len()], len_bytes);
        }
        let (newcomer, _) = shares.join(None);
        for _ in 0..20 {
            prop_assert!(shares.ask(newcomer, wanted));
            shares.release(newcomer, wanted);
        }
    }
}

#[test]
fn alone_one_member_has_all_of_the_ordinary_part_and_loses_its_surplus_to_a_second() {
    let mut shares = Shares::new(BUDGET, COMMAND);
    let (greedy, _) = shares.join(None);
    let (second, _) = shares.join(None);
    for _ in 0..4 {
        assert!(shares.ask(greedy, COMMAND));
    }
    assert!(!shares.ask(greedy, COMMAND));
    assert!(!shares.is_in_the_way(greedy), "nobody else waits");
    assert!(shares.ask(second, COMMAND), "its first");
    assert!(!shares.ask(second, COMMAND), "its second, until something was given back");
    assert!(shares.is_in_the_way(greedy));
    assert!(!shares.is_in_the_way(second));
    // What the greedy one releases goes to the second, up to half.
    shares.release(greedy, 2 * COMMAND);
    assert!(!shares.ask(greedy, COMMAND));
    assert!(shares.ask(second, COMMAND));
    shares.leave(greedy);
    shares.leave(second);
    assert_eq!((shares.held_bytes(), shares.waiting(), shares.active_groups), (0, 0, 0));
}
