//! Boots of nodes, and their last words.

use super::world::World;
use model::{
    HostId,
    boot::{BootEnd, BootReport, LOG_MAX, PANIC_MAX},
    filter::{Filter, Object},
};

fn report(boot: &str, end: BootEnd) -> BootReport {
    let (panic, log) = (String::new(), format!("log of {boot}\n"));
    BootReport { boot: boot.into(), version: "1".into(), began_ms: 1_800_000_000_000, lasted_s: 9, end, panic, log }
}

async fn told(w: &World, host: HostId, report: BootReport) {
    w.tx(move |tx| tx.boot_report(host, &report)).await;
}

/// Boot, end and reason of each.
async fn boots(w: &World) -> Vec<(String, String, String)> {
    let rows = w.tx(|tx| tx.boots(&Filter::default())).await;
    rows.into_iter().map(|row| (row.boot, row.end, row.why)).collect()
}

promises! {
    async fn a_boot_is_one_row_however_often_it_is_told(w) {
        let (a, b) = (w.node("a").await, w.node("b").await);
        told(&w, a, report("1", BootEnd::Running)).await;
        told(&w, b, report("1", BootEnd::Running)).await;
        told(&w, a, report("1", BootEnd::Running)).await;
        let crash = BootReport { panic: "words".into(), ..report("1", BootEnd::Panic("why".into())) };
        told(&w, a, crash.clone()).await;
        told(&w, a, report("2", BootEnd::Running)).await;
        told(&w, a, crash).await;
        let row = |boot: &str, end: &str, why: &str| (boot.to_owned(), end.to_owned(), why.to_owned());
        assert_eq!(boots(&w).await, [row("2", "running", ""), row("1", "panic", "why"), row("1", "running", "")]);
        let filter = Object::Host.filter("name=a").expect("a filter");
        let rows = w.tx(move |tx| tx.boots(&filter)).await;
        assert_eq!((rows.len(), rows[1].began.as_str(), rows[1].lasted_s), (2, "2027-01-15 08:00:00Z", 9));
        let id = rows[1].id;
        let log = w.tx(move |tx| tx.boot_log(id)).await;
        assert_eq!((log.panic.as_str(), log.log.as_str(), &log.boot), ("words", "log of 1\n", &rows[1]));
        let events = w.tx(|tx| tx.events(9)).await;
        let crashes: Vec<_> = events.iter().filter(|e| e.what == "host.crashed").map(|e| e.detail.as_str()).collect();
        assert_eq!(crashes, ["panic: why"], "news once");
    }

    async fn so_many_boots_of_a_node_are_kept_within_bounds(w) {
        let (a, b) = (w.node("a").await, w.node("b").await);
        told(&w, b, report("other", BootEnd::Cut)).await;
        for boot in 0..40 {
            told(&w, a, report(&boot.to_string(), BootEnd::Cut)).await;
        }
        let all = boots(&w).await;
        assert_eq!((all.len(), all[0].0.as_str(), all[31].0.as_str(), all[32].0.as_str()), (33, "39", "8", "other"));
        let long = |c: &str| c.repeat(1 << 20);
        let huge = BootReport { boot: long("b"), panic: long("p"), log: long("l"), ..report("", BootEnd::Hang(long("w"))) };
        told(&w, a, huge).await;
        let row = w.tx(|tx| tx.boots(&Filter::default())).await.remove(0);
        assert_eq!((row.boot.len(), row.why.len(), row.end.as_str()), (512, 512, "hang"));
        let log = w.tx(move |tx| tx.boot_log(row.id)).await;
        assert_eq!((log.panic.len(), log.log.len()), (PANIC_MAX, LOG_MAX));
        w.tx(move |tx| tx.host_del(a)).await;
        assert_eq!(boots(&w).await.len(), 1, "they go with their node");
    }
}
