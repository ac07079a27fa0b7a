//! Decides who gets memory for host data, and who waits: the policy alone, without memory or
//! sockets.
//!
//! Members (connections) belong to groups (controllers). A member holds memory for data that was
//! requested from its host or that its host has sent, for reads under way, and for responses that
//! its host has not taken yet. The budget has three parts:
//!
//! | part | for whom |
//! |---|---|
//! | half, *ordinary* | everyone, each up to its share while others wait |
//! | a quarter above it | the first command of a member that holds nothing |
//! | the last quarter, the *reserve* | the first command of a group that holds nothing |
//!
//! **Shares.** A group's share is the ordinary part divided by the number of groups that hold or
//! wait. A member's share is its group's share divided by the number of that group's members that
//! hold or wait. A member that holds its share or more gets nothing more while another one waits.
//! While nobody waits there are no shares: unused memory helps nobody.
//!
//! **The line.** Members that hold nothing and wait form a queue, the line. The memory they want is
//! reserved against everyone later in the line and everyone who holds something. So each is served
//! as soon as enough of the memory held now is released. In addition, one group that holds nothing
//! has a claim on the reserve, and nobody else may take the memory it wants there.
//!
//! A waiting member asks again in every turn, or is [withdrawn](Shares::withdraw).

use std::collections::VecDeque;

/// A member, as returned by [`Shares::join`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemberId(u32);

/// A group of members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupId(u32);

/// What a member waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Nothing.
    No,
    /// More than it has.
    More,
    /// Its first command, which needs this many bytes. The member is in the line.
    First(usize),
}

#[derive(Debug, Clone, Copy)]
struct Member {
    group: GroupId,
    held_bytes: usize,
    /// The part of it that was taken from the reserve.
    reserve_bytes: usize,
    wait: Wait,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    /// 0: the group is free.
    members: usize,
    held_bytes: usize,
    /// Members that hold or wait.
    active: usize,
}

/// The memory for host data and who holds it.
#[derive(Debug)]
pub(super) struct Shares {
    ordinary_bytes: usize,
    /// The ordinary part, and the part for first commands.
    general_bytes: usize,
    reserve_bytes: usize,
    general_held_bytes: usize,
    reserve_held_bytes: usize,
    members: Vec<Member>,
    free_members: Vec<MemberId>,
    groups: Vec<Group>,
    free_groups: Vec<GroupId>,
    active_groups: usize,
    line: VecDeque<MemberId>,
    line_bytes: usize,
    /// The member with the claim on the reserve, and how many bytes it wants.
    claim: Option<(MemberId, usize)>,
    waiting_for_more: usize,
}

impl Shares {
    /// Divides a budget. Every part has room for at least one command of `command_bytes_max`.
    pub(super) fn new(budget_bytes: usize, command_bytes_max: usize) -> Self {
        let part = |len_bytes: usize| len_bytes.max(command_bytes_max);
        let (ordinary_bytes, reserve_bytes) = (part(budget_bytes / 2), part(budget_bytes / 4));
        Shares {
            ordinary_bytes,
            general_bytes: ordinary_bytes + part(budget_bytes / 4),
            reserve_bytes,
            general_held_bytes: 0,
            reserve_held_bytes: 0,
            members: Vec::new(),
            free_members: Vec::new(),
            groups: Vec::new(),
            free_groups: Vec::new(),
            active_groups: 0,
            line: VecDeque::new(),
            line_bytes: 0,
            claim: None,
            waiting_for_more: 0,
        }
    }

    /// Adds a member to a group, or to a new group.
    pub(super) fn join(&mut self, group: Option<GroupId>) -> (MemberId, GroupId) {
        let group = group.filter(|group| self.groups[group.0 as usize].members > 0);
        let group = group.unwrap_or_else(|| {
            self.free_groups.pop().unwrap_or_else(|| {
                self.groups.push(Group { members: 0, held_bytes: 0, active: 0 });
                GroupId(self.groups.len() as u32 - 1)
            })
        });
        self.groups[group.0 as usize].members += 1;
        let member = Member { group, held_bytes: 0, reserve_bytes: 0, wait: Wait::No };
        let id = if let Some(id) = self.free_members.pop() {
            self.members[id.0 as usize] = member;
            id
        } else {
            self.members.push(member);
            MemberId(self.members.len() as u32 - 1)
        };
        (id, group)
    }

    /// Removes a member and releases what it holds.
    pub(super) fn leave(&mut self, id: MemberId) {
        self.withdraw(id);
        let member = self.members[id.0 as usize];
        if member.held_bytes > 0 {
            self.release(id, member.held_bytes);
        }
        let group = &mut self.groups[member.group.0 as usize];
        group.members -= 1;
        if group.members == 0 {
            self.free_groups.push(member.group);
        }
        self.free_members.push(id);
    }

    /// The member stops waiting and releases everything except `len_bytes` of what it holds.
    pub(super) fn keep_only(&mut self, id: MemberId, len_bytes: usize) {
        self.withdraw(id);
        let held_bytes = self.members[id.0 as usize].held_bytes;
        if held_bytes > len_bytes {
            self.release(id, held_bytes - len_bytes);
        }
    }

    /// Asks for memory. Returns whether the member has it now. If not, it waits.
    #[inline]
    pub(super) fn ask(&mut self, id: MemberId, wanted_bytes: usize) -> bool {
        if self.waiting() == 0 && self.general_held_bytes + wanted_bytes <= self.ordinary_bytes {
            self.hold(id, wanted_bytes);
            return true;
        }
        self.ask_among_others(id, wanted_bytes)
    }

    /// Like [`ask`](Self::ask), when a member waits or the ordinary part is used up.
    fn ask_among_others(&mut self, id: MemberId, wanted_bytes: usize) -> bool {
        let member = self.members[id.0 as usize];
        let group_is_empty = self.groups[member.group.0 as usize].held_bytes == 0;
        if !group_is_empty {
            self.give_up_claim(id);
        }
        if member.held_bytes > 0 {
            let is_its_turn = !self.others_wait(id) || !self.has_its_share(id);
            if is_its_turn && self.general_held_bytes + self.line_bytes + wanted_bytes <= self.ordinary_bytes
            {
                self.withdraw(id);
                self.hold(id, wanted_bytes);
                return true;
            }
            self.wait(id, Wait::More);
            return false;
        }
        if self.general_held_bytes + self.wanted_ahead_of(id) + wanted_bytes <= self.general_bytes {
            self.withdraw(id);
            self.hold(id, wanted_bytes);
            return true;
        }
        if group_is_empty {
            let claimed_bytes = match self.claim {
                Some((claimant, bytes)) if claimant != id => bytes,
                _ => 0,
            };
            if self.reserve_held_bytes + claimed_bytes + wanted_bytes <= self.reserve_bytes {
                self.withdraw(id);
                self.hold(id, wanted_bytes);
                // Counts in the reserve instead.
                self.general_held_bytes -= wanted_bytes;
                self.reserve_held_bytes += wanted_bytes;
                self.members[id.0 as usize].reserve_bytes = wanted_bytes;
                return true;
            }
            if claimed_bytes == 0 {
                self.claim = Some((id, wanted_bytes));
            }
        }
        self.wait(id, Wait::First(wanted_bytes));
        false
    }

    /// Returns memory that was granted but that the pool did not have, and waits.
    pub(super) fn return_and_wait(&mut self, id: MemberId, len_bytes: usize) {
        self.release(id, len_bytes);
        let holds_nothing = self.members[id.0 as usize].held_bytes == 0;
        self.wait(id, if holds_nothing { Wait::First(len_bytes) } else { Wait::More });
    }

    /// A member releases memory that it holds.
    #[inline]
    pub(super) fn release(&mut self, id: MemberId, len_bytes: usize) {
        let member = &mut self.members[id.0 as usize];
        debug_assert!(member.held_bytes >= len_bytes, "{len_bytes} of {member:?}");
        member.held_bytes -= len_bytes;
        let of_reserve = len_bytes.min(member.reserve_bytes);
        member.reserve_bytes -= of_reserve;
        let is_idle = member.held_bytes == 0 && member.wait == Wait::No;
        self.reserve_held_bytes -= of_reserve;
        self.general_held_bytes -= len_bytes - of_reserve;
        let group = member.group;
        self.groups[group.0 as usize].held_bytes -= len_bytes;
        if is_idle {
            self.note_idle(group);
        }
    }

    /// A member stops waiting, for whatever it waited.
    pub(super) fn withdraw(&mut self, id: MemberId) {
        self.give_up_claim(id);
        let member = self.members[id.0 as usize];
        if member.wait == Wait::No {
            return;
        }
        self.wait(id, Wait::No);
        if member.held_bytes == 0 {
            self.note_idle(member.group);
        }
    }

    /// Whether a member keeps others from their memory: it holds something, and either another one
    /// that holds nothing waits, or another one waits while this one has its share.
    pub(super) fn is_in_the_way(&self, id: MemberId) -> bool {
        let member = &self.members[id.0 as usize];
        let in_line = usize::from(matches!(member.wait, Wait::First(_)));
        member.held_bytes > 0
            && (self.line.len() > in_line || (self.others_wait(id) && self.has_its_share(id)))
    }

    /// Bytes that may be held.
    pub(super) fn budget_bytes(&self) -> usize {
        self.general_bytes + self.reserve_bytes
    }

    /// Bytes that are held.
    pub(super) fn held_bytes(&self) -> usize {
        self.general_held_bytes + self.reserve_held_bytes
    }

    /// Members that wait.
    pub(super) fn waiting(&self) -> usize {
        self.line.len() + self.waiting_for_more
    }

    fn others_wait(&self, id: MemberId) -> bool {
        self.waiting() > usize::from(self.members[id.0 as usize].wait != Wait::No)
    }

    /// Whether it holds its share, or its group holds the group's share.
    fn has_its_share(&self, id: MemberId) -> bool {
        let member = &self.members[id.0 as usize];
        let group = &self.groups[member.group.0 as usize];
        let group_share = self.ordinary_bytes / self.active_groups.max(1);
        group.held_bytes >= group_share || member.held_bytes >= group_share / group.active.max(1)
    }

    /// Bytes wanted in the line that a member that holds nothing may not overtake.
    fn wanted_ahead_of(&self, id: MemberId) -> usize {
        match self.members[id.0 as usize].wait {
            Wait::First(_) if self.line.front() == Some(&id) => 0,
            Wait::First(own_bytes) => self.line_bytes - own_bytes,
            _ => self.line_bytes,
        }
    }

    #[inline]
    fn hold(&mut self, id: MemberId, len_bytes: usize) {
        let member = &mut self.members[id.0 as usize];
        let was_idle = member.held_bytes == 0 && member.wait == Wait::No;
        member.held_bytes += len_bytes;
        self.general_held_bytes += len_bytes;
        let group = member.group;
        self.groups[group.0 as usize].held_bytes += len_bytes;
        if was_idle {
            self.note_active(group);
        }
    }

    /// Sets what a member waits for. Its place in the line stays.
    fn wait(&mut self, id: MemberId, wait: Wait) {
        let member = &mut self.members[id.0 as usize];
        let before = std::mem::replace(&mut member.wait, wait);
        let group = member.group;
        if before == Wait::No && member.held_bytes == 0 {
            self.note_active(group);
        }
        match (before, wait) {
            (Wait::First(before_bytes), Wait::First(wanted_bytes)) => {
                self.line_bytes = self.line_bytes - before_bytes + wanted_bytes;
                return;
            }
            (Wait::First(before_bytes), _) => {
                self.line_bytes -= before_bytes;
                self.line.retain(|other| *other != id);
            }
            (Wait::More, _) => self.waiting_for_more -= 1,
            (Wait::No, _) => {}
        }
        match wait {
            Wait::First(wanted_bytes) => {
                self.line_bytes += wanted_bytes;
                self.line.push_back(id);
            }
            Wait::More => self.waiting_for_more += 1,
            Wait::No => {}
        }
    }

    #[inline]
    fn note_active(&mut self, group: GroupId) {
        let group = &mut self.groups[group.0 as usize];
        self.active_groups += usize::from(group.active == 0);
        group.active += 1;
    }

    #[inline]
    fn note_idle(&mut self, group: GroupId) {
        let group = &mut self.groups[group.0 as usize];
        group.active -= 1;
        self.active_groups -= usize::from(group.active == 0);
    }

    fn give_up_claim(&mut self, id: MemberId) {
        if self.claim.is_some_and(|(claimant, _)| claimant == id) {
            self.claim = None;
        }
    }
}

#[cfg(test)]
mod tests;
