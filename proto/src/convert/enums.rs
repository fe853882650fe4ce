//! Converts enums to and from the wire.

use redkeeper_core::status::{Ability, Reason, Role, Stage, State};

use crate::v1;

macro_rules! enums {
    ($($to_wire:ident, $from_wire:ident: $core:ident <-> $wire:ident { $($c:ident = $w:ident),+ $(,)? })+) => {$(
        /// To the wire.
        pub fn $to_wire(value: $core) -> v1::$wire {
            match value { $($core::$c => v1::$wire::$w),+ }
        }

        /// From the wire; `None` for UNSPECIFIED and values that this version does not know.
        pub fn $from_wire(value: i32) -> Option<$core> {
            match v1::$wire::try_from(value) { $(Ok(v1::$wire::$w) => Some($core::$c),)+ _ => None }
        }
    )+};
}

enums! {
    state_to_wire, state_from_wire: State <-> InstanceState { Up = Up, Degraded = Degraded, Down = Down, Unknown = Unknown }
    ability_to_wire, ability_from_wire: Ability <-> Ability { Yes = Yes, No = No, Unknown = Unknown }
}

macro_rules! open_enums {
    ($($to_wire:ident, $from_wire:ident: $core:ident <-> $wire:ident { $($c:ident = $w:ident),+ $(,)? })+) => {$(
        /// The number on the wire.
        pub fn $to_wire(value: $core) -> i32 {
            match value {
                $($core::$c => v1::$wire::$w.into(),)+
                $core::Unrecognized(number, ..) => number.into(),
            }
        }

        /// From the wire; `None` for UNSPECIFIED and values that this version does not know.
        pub fn $from_wire(value: i32) -> Option<$core> {
            match v1::$wire::try_from(value) { $(Ok(v1::$wire::$w) => Some($core::$c),)+ _ => None }
        }
    )+};
}

open_enums! {
    stage_to_wire, stage_from_wire: Stage <-> Stage {
        Resolve = Resolve, Connect = Connect, Tls = Tls, Auth = Auth, Command = Command, Reply = Reply,
    }
    role_to_wire, role_from_wire: Role <-> Role {
        Unknown = Unspecified, Master = Master, Replica = Replica, Sentinel = Sentinel,
    }
    reason_to_wire, reason_from_wire: Reason <-> Reason {
        Ok = Ok, ConnectionRefused = ConnectionRefused, ConnectionReset = ConnectionReset,
        HostUnreachable = HostUnreachable, SocketMissing = SocketMissing, ConnectTimeout = ConnectTimeout,
        ReplyTimeout = ReplyTimeout, BusyScript = BusyScript, BusyModule = BusyModule, Loading = Loading,
        MasterLinkDown = MasterLinkDown, ReplicaSyncing = ReplicaSyncing, PersistenceFailed = PersistenceFailed,
        OutOfMemory = OutOfMemory, NotEnoughReplicas = NotEnoughReplicas, ClusterDown = ClusterDown,
        MaxClients = MaxClients, AuthRequired = AuthRequired, AuthFailed = AuthFailed,
        PermissionDenied = PermissionDenied, ProtectedMode = ProtectedMode, TlsMismatch = TlsMismatch,
        TlsCertificate = TlsCertificate, ProtocolError = ProtocolError, NotRedis = NotRedis,
        ProcessGone = ProcessGone, AgentSilent = AgentSilent, ProbeStalled = ProbeStalled, NotProbed = NotProbed,
        ResolveFailed = ResolveFailed, AgentFault = AgentFault, NewConnectionsFail = NewConnectionsFail,
        WritesBlocked = WritesBlocked,
    }
}
