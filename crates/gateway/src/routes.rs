//! Which path calls which method.

use retcd_api::json::Method;

/// The prefixes that reach the gateway. The two older ones are those of etcd 3.3 and before.
const PREFIXES: [&str; 3] = ["/v3/", "/v3beta/", "/v3alpha/"];

/// A path after the prefix, and the gRPC method behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub path: &'static str,
    /// `/package.Service/Method`.
    pub method: &'static str,
}

macro_rules! routes {
    ($($path:literal => $method:literal;)*) => {
        const ROUTES: &[Route] =
            &[$(Route { path: $path, method: concat!("/", $method) },)*];

        fn method_of(path: &str) -> Option<&'static str> {
            match path {
                $($path => Some(concat!("/", $method)),)*
                _ => None,
            }
        }
    };
}

routes! {
    "kv/range" => "etcdserverpb.KV/Range";
    "kv/put" => "etcdserverpb.KV/Put";
    "kv/deleterange" => "etcdserverpb.KV/DeleteRange";
    "kv/txn" => "etcdserverpb.KV/Txn";
    "kv/compaction" => "etcdserverpb.KV/Compact";
    "watch" => "etcdserverpb.Watch/Watch";
    "lease/grant" => "etcdserverpb.Lease/LeaseGrant";
    "lease/revoke" => "etcdserverpb.Lease/LeaseRevoke";
    "kv/lease/revoke" => "etcdserverpb.Lease/LeaseRevoke";
    "lease/keepalive" => "etcdserverpb.Lease/LeaseKeepAlive";
    "lease/timetolive" => "etcdserverpb.Lease/LeaseTimeToLive";
    "kv/lease/timetolive" => "etcdserverpb.Lease/LeaseTimeToLive";
    "lease/leases" => "etcdserverpb.Lease/LeaseLeases";
    "kv/lease/leases" => "etcdserverpb.Lease/LeaseLeases";
    "cluster/member/add" => "etcdserverpb.Cluster/MemberAdd";
    "cluster/member/remove" => "etcdserverpb.Cluster/MemberRemove";
    "cluster/member/update" => "etcdserverpb.Cluster/MemberUpdate";
    "cluster/member/list" => "etcdserverpb.Cluster/MemberList";
    "cluster/member/promote" => "etcdserverpb.Cluster/MemberPromote";
    "maintenance/alarm" => "etcdserverpb.Maintenance/Alarm";
    "maintenance/status" => "etcdserverpb.Maintenance/Status";
    "maintenance/defragment" => "etcdserverpb.Maintenance/Defragment";
    "maintenance/hash" => "etcdserverpb.Maintenance/Hash";
    "maintenance/hashkv" => "etcdserverpb.Maintenance/HashKV";
    "maintenance/snapshot" => "etcdserverpb.Maintenance/Snapshot";
    "maintenance/transfer-leadership" => "etcdserverpb.Maintenance/MoveLeader";
    "maintenance/downgrade" => "etcdserverpb.Maintenance/Downgrade";
    "auth/enable" => "etcdserverpb.Auth/AuthEnable";
    "auth/disable" => "etcdserverpb.Auth/AuthDisable";
    "auth/status" => "etcdserverpb.Auth/AuthStatus";
    "auth/authenticate" => "etcdserverpb.Auth/Authenticate";
    "auth/user/add" => "etcdserverpb.Auth/UserAdd";
    "auth/user/get" => "etcdserverpb.Auth/UserGet";
    "auth/user/list" => "etcdserverpb.Auth/UserList";
    "auth/user/delete" => "etcdserverpb.Auth/UserDelete";
    "auth/user/changepw" => "etcdserverpb.Auth/UserChangePassword";
    "auth/user/grant" => "etcdserverpb.Auth/UserGrantRole";
    "auth/user/revoke" => "etcdserverpb.Auth/UserRevokeRole";
    "auth/role/add" => "etcdserverpb.Auth/RoleAdd";
    "auth/role/get" => "etcdserverpb.Auth/RoleGet";
    "auth/role/list" => "etcdserverpb.Auth/RoleList";
    "auth/role/delete" => "etcdserverpb.Auth/RoleDelete";
    "auth/role/grant" => "etcdserverpb.Auth/RoleGrantPermission";
    "auth/role/revoke" => "etcdserverpb.Auth/RoleRevokePermission";
    "lock/lock" => "v3lockpb.Lock/Lock";
    "lock/unlock" => "v3lockpb.Lock/Unlock";
    "election/campaign" => "v3electionpb.Election/Campaign";
    "election/proclaim" => "v3electionpb.Election/Proclaim";
    "election/leader" => "v3electionpb.Election/Leader";
    "election/observe" => "v3electionpb.Election/Observe";
    "election/resign" => "v3electionpb.Election/Resign";
}

/// Every route.
pub fn all() -> &'static [Route] {
    ROUTES
}

/// Whether a path is the gateway's, be there a route or not.
pub(crate) fn is_below_prefix(path: &str) -> bool {
    PREFIXES.iter().any(|prefix| path.starts_with(prefix))
}

/// The method behind a path with its prefix: where it is, and what it speaks.
pub(crate) fn find(path: &str) -> Option<(&'static str, &'static Method)> {
    let rest = PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix))?;
    let method = method_of(rest)?;
    Some((method, Method::from_path(method).expect("every route leads to a method of the API")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_leads_to_its_method_on_every_prefix() {
        for route in all() {
            for prefix in PREFIXES {
                let found = find(&format!("{prefix}{}", route.path)).map(|(method, _)| method);
                assert_eq!(found, Some(route.method));
            }
        }
    }

    #[test]
    fn every_method_has_a_route_but_those_that_etcd_has_none_for() {
        let routed: BTreeSet<&str> = all().iter().map(|route| route.method).collect();
        let without: BTreeSet<&str> =
            Method::all().map(|(path, _)| path).filter(|path| !routed.contains(path)).collect();
        let expected = [
            "/etcdserverpb.KV/RangeStream",
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/List",
            "/grpc.health.v1.Health/Watch",
        ];
        assert_eq!(without, expected.into());
    }

    #[test]
    fn other_paths_have_none() {
        for path in ["/v3/", "/v3/kv", "/v3/kv/put/", "/v3/kv//put", "/v2/kv/put", "/v3kv/put"] {
            assert!(find(path).is_none(), "{path}");
        }
        assert!(is_below_prefix("/v3/nothing") && is_below_prefix("/v3alpha/kv/put"));
        assert!(!is_below_prefix("/v3") && !is_below_prefix("/version"));
    }
}
