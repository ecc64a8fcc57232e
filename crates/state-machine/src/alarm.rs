//! Alarms: what keeps the cluster from serving writes until an operator has looked.

use std::collections::BTreeSet;

use prost::Message;
use retcd_api::etcdserverpb::{AlarmMember, AlarmType};

use crate::backend::Change;
use crate::schema::Bucket;

/// The active alarms. Any member id may be named, also one that does not exist.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alarms {
    /// Kind and member.
    active: BTreeSet<(i32, u64)>,
}

impl Alarms {
    /// Takes over a stored alarm.
    pub(crate) fn restore(&mut self, stored: &AlarmMember) {
        self.active.insert((stored.alarm, stored.member_id));
    }

    pub(crate) fn has(&self, kind: AlarmType) -> bool {
        self.active.range((kind as i32, 0)..=(kind as i32, u64::MAX)).next().is_some()
    }

    /// The active alarms of one kind, or of all kinds for `None`.
    pub(crate) fn list(&self, kind: AlarmType) -> Vec<AlarmMember> {
        self.active
            .iter()
            .filter(|(alarm, _)| kind == AlarmType::None || *alarm == kind as i32)
            .map(|&(alarm, member_id)| AlarmMember { member_id, alarm })
            .collect()
    }

    /// Returns what to store; nothing when the alarm was active already.
    pub(crate) fn activate(&mut self, alarm: AlarmMember) -> Option<Change> {
        let is_new = self.active.insert((alarm.alarm, alarm.member_id));
        is_new.then(|| change(alarm, Some(Vec::new())))
    }

    /// Returns what to store; nothing when the alarm was not active.
    pub(crate) fn deactivate(&mut self, alarm: AlarmMember) -> Option<Change> {
        let was_active = self.active.remove(&(alarm.alarm, alarm.member_id));
        was_active.then(|| change(alarm, None))
    }
}

fn change(alarm: AlarmMember, value: Option<Vec<u8>>) -> Change {
    Change { bucket: Bucket::Alarm, key: alarm.encode_to_vec(), value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_told_apart_by_kind_and_member() {
        let mut alarms = Alarms::default();
        let alarm = AlarmMember { member_id: 7, alarm: AlarmType::Nospace.into() };
        assert!(alarms.activate(alarm).is_some());
        assert!(alarms.activate(alarm).is_none());
        assert!(alarms.has(AlarmType::Nospace) && !alarms.has(AlarmType::Corrupt));
        assert_eq!(alarms.list(AlarmType::None), [alarm]);
        assert!(alarms.list(AlarmType::Corrupt).is_empty());
        assert!(alarms.deactivate(AlarmMember { member_id: 8, ..alarm }).is_none());
        assert_eq!(alarms.deactivate(alarm).and_then(|change| change.value), None);
        assert!(!alarms.has(AlarmType::Nospace));
    }
}
