//! `/debug/memory`: what the program uses and what the allocator keeps, in total and by arena.

use serde_json::json;

use super::page::Content;
use crate::{
    memory::{self, Arena, Statistics},
    profile::heap::{Sampling, sampling},
};

/// The page.
pub(super) fn page() -> Content {
    let Some(statistics) = memory::statistics() else {
        let text = "the allocator reports no statistics\n".to_owned();
        return Content {
            text,
            json: json!({}),
        };
    };
    let Statistics {
        allocated,
        active,
        resident,
        mapped,
        retained,
        metadata,
        thread_caches,
        arenas,
    } = &statistics;
    let rows = [
        ("allocated", *allocated, "in use by the program"),
        (
            "thread caches",
            *thread_caches,
            "freed, kept by threads for their next allocations",
        ),
        ("active", *active, "pages with something allocated in them"),
        ("metadata", *metadata, "the allocator's own"),
        ("resident", *resident, "pages in physical memory, at most"),
        ("mapped", *mapped, "taken from the system"),
        ("retained", *retained, "given back, its addresses are kept"),
    ];
    let mut text = String::new();
    for (name, bytes, help) in rows {
        text.push_str(&format!("{name:<14}{:>12}  {help}\n", mib(bytes)));
    }
    let sampling = sampling();
    let profile = match sampling {
        Sampling::Unavailable => "unavailable: the allocator was built without them".to_owned(),
        Sampling::Off => "off: `debug heap --sampling on` switches them on".to_owned(),
        Sampling::Every(bytes) => format!(
            "on: one allocation in {} KiB is recorded, see /debug/pprof/heap",
            bytes >> 10
        ),
    };
    text.push_str(&format!("\nheap profiles are {profile}\n"));
    text.push_str("\nARENA  THREADS  SMALL         LARGE         ACTIVE        DIRTY\n");
    for Arena {
        index,
        threads,
        small,
        large,
        active,
        dirty,
    } in arenas
    {
        text.push_str(&format!(
            "{index:<7}{threads:<9}{:<14}{:<14}{:<14}{}\n",
            mib(*small),
            mib(*large),
            mib(*active),
            mib(*dirty)
        ));
    }
    let json = json!({
        "allocated_bytes": allocated,
        "thread_cache_bytes": thread_caches,
        "active_bytes": active,
        "metadata_bytes": metadata,
        "resident_bytes": resident,
        "mapped_bytes": mapped,
        "retained_bytes": retained,
        "heap_profile": match sampling {
            Sampling::Unavailable => "unavailable",
            Sampling::Off => "off",
            Sampling::Every(_) => "on",
        },
        "arenas": arenas.iter().map(|arena| json!({
            "arena": arena.index, "threads": arena.threads, "small_bytes": arena.small,
            "large_bytes": arena.large, "active_bytes": arena.active, "dirty_bytes": arena.dirty,
        })).collect::<Vec<_>>(),
    });
    Content { text, json }
}

fn mib(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}
