//! The team under many threads, many jobs, and jobs that fail.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Chunks, Disjoint, Member, Team, affinity};

/// One, as many as there are cores, odd, and far more than cores.
const TEAMS: [usize; 7] = [1, 2, 3, 4, 7, 16, 64];

/// The message with which `job` ends on `team`.
fn panic_of(team: &Team, job: &(dyn Fn(&Member<'_>) + Sync)) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| team.run(job))).unwrap_err();
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => (*panic.downcast::<&str>().unwrap()).to_owned(),
    }
}

/// That a job still reaches every member and the members still meet.
fn check(team: &Team) {
    let before = AtomicUsize::new(0);
    let after = AtomicUsize::new(0);
    team.run(&|member| {
        before.fetch_add(1 << member.id.min(60), Ordering::Relaxed);
        member.barrier();
        after.fetch_max(before.load(Ordering::Relaxed), Ordering::Relaxed);
        member.barrier();
        assert_eq!(after.load(Ordering::Relaxed), before.load(Ordering::Relaxed));
    });
    let all = (0..team.threads()).map(|id| 1_usize << id.min(60)).sum::<usize>();
    assert_eq!(before.load(Ordering::Relaxed), all);
}

fn wait_until_parked(team: &Team) {
    let start = Instant::now();
    while !team.shared.parked.iter().all(|parked| parked.load(Ordering::SeqCst)) {
        assert!(start.elapsed() < Duration::from_secs(60), "the workers stay awake");
        std::thread::yield_now();
    }
}

#[test]
fn every_member_runs_every_job_once() {
    for threads in TEAMS {
        let team = Team::new(threads);
        assert_eq!(team.threads(), threads);
        let runs: Vec<_> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
        let jobs = 20_000 / (threads * threads).max(20);
        for job in 0..jobs {
            team.run(&|member| {
                assert_eq!(member.threads, threads);
                assert_eq!(runs[member.id].fetch_add(1, Ordering::Relaxed), job);
            });
        }
        assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == jobs));
    }
}

#[test]
fn a_shedding_team_runs_jobs_with_fewer_members_and_with_all_again() {
    let team = Team::new(5).shedding();
    for job in 0..2000_usize {
        let members = 1 + job * 7 % 5;
        team.shedding.as_ref().unwrap().set(members);
        let (ran, shared) = (AtomicUsize::new(0), AtomicUsize::new(0));
        team.run(&|member| {
            assert_eq!(member.threads, members);
            ran.fetch_add(1 << (8 * member.id), Ordering::Relaxed);
            member.barrier();
            shared.fetch_add(member.share(100).len(), Ordering::Relaxed);
        });
        assert_eq!(ran.into_inner(), (0..members).map(|id| 1 << (8 * id)).sum::<usize>());
        assert_eq!(shared.into_inner(), 100);
        if job % 500 == 0 {
            wait_until_parked(&team);
        }
    }
}

#[test]
fn a_team_has_at_least_its_leader() {
    let team = Team::new(0);
    assert_eq!(team.threads(), 1);
    check(&team);
}

#[test]
fn the_leader_is_the_caller_and_the_workers_have_names() {
    let team = Team::new(3);
    let caller = std::thread::current().id();
    team.run(&|member| {
        let thread = std::thread::current();
        match member.id {
            0 => assert_eq!(thread.id(), caller),
            id => assert_eq!(thread.name().unwrap(), format!("nxd-cpu-{id}")),
        }
    });
}

/// Each member rewrites its part from its neighbours' parts of the phase before, as ops of a step do: a barrier that lets
/// somebody through early, or does not publish, gives other numbers.
#[test]
fn what_was_written_before_a_barrier_is_seen_after_it() {
    const N: usize = 97;
    let next = |old: &[u64], i: usize| {
        let (left, right) = (old[(i + N - 1) % N], old[(i + 1) % N]);
        left.rotate_left(7) ^ old[i].wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ right.wrapping_add(i as u64)
    };
    for threads in TEAMS {
        let rounds = if threads > 8 { 40 } else { 400 };
        let mut expected: Vec<u64> = (0..N as u64).collect();
        for _ in 0..rounds * 3 {
            expected = (0..N).map(|i| next(&expected, i)).collect();
        }
        let (mut a, mut b) = ((0..N as u64).collect::<Vec<_>>(), vec![0; N]);
        let team = Team::new(threads);
        for _ in 0..3 {
            // An even number of rounds a job ends in `a`.
            let (even, odd) = (Disjoint::new(&mut a), Disjoint::new(&mut b));
            team.run(&|member| {
                for round in 0..rounds {
                    let (from, to) = if round % 2 == 0 { (&even, &odd) } else { (&odd, &even) };
                    let own = member.share(N);
                    // SAFETY: one buffer is read by all and written by none until the barrier; of the other each member takes
                    // its own share.
                    let (old, new) = unsafe { (from.read(0..N), to.slice(own.clone())) };
                    for (new, i) in new.iter_mut().zip(own) {
                        *new = next(old, i);
                    }
                    member.barrier();
                }
            });
        }
        assert_eq!(a, expected, "{threads} threads");
    }
}

#[test]
fn barriers_may_be_in_loops_and_calls_of_different_depth() {
    fn halve(member: &Member<'_>, count: &AtomicUsize, depth: usize) {
        if depth == 0 {
            return;
        }
        count.fetch_add(1, Ordering::Relaxed);
        member.barrier();
        halve(member, count, depth - 1);
        member.barrier();
        assert_eq!(count.load(Ordering::Relaxed) % member.threads, 0);
        member.barrier();
    }
    for threads in [1, 2, 3, 8] {
        let (team, count) = (Team::new(threads), AtomicUsize::new(0));
        for _ in 0..50 {
            team.run(&|member| (0..3).for_each(|depth| halve(member, &count, depth)));
        }
        assert_eq!(count.load(Ordering::Relaxed), 50 * 3 * threads);
    }
}

#[test]
fn parked_workers_wake_for_the_next_job() {
    let team = Team::new(4);
    for _ in 0..5 {
        wait_until_parked(&team);
        check(&team);
    }
}

#[test]
fn a_team_can_be_dropped_while_its_workers_are_parked_or_awake() {
    for threads in [2, 5, 64] {
        let team = Team::new(threads);
        check(&team);
        wait_until_parked(&team);
        drop(team);
        let team = Team::new(threads);
        check(&team);
        drop(team);
        drop(Team::new(threads));
    }
}

#[test]
fn a_team_can_move_to_another_thread() {
    let team = Team::new(3);
    check(&team);
    std::thread::spawn(move || check(&team)).join().unwrap();
}

#[test]
fn a_panic_in_any_member_reaches_the_caller_and_the_team_stays_usable() {
    for threads in [1, 2, 3, 16] {
        let team = Team::new(threads);
        for failing in 0..threads {
            let text = panic_of(&team, &|member| assert!(member.id != failing, "member {failing} fails"));
            assert_eq!(text, format!("member {failing} fails"));
            check(&team);
        }
    }
}

#[test]
fn a_panic_lets_go_of_members_that_wait_at_a_barrier() {
    for threads in [2, 3, 16] {
        let (team, beyond) = (Team::new(threads), AtomicBool::new(false));
        for (failing, meetings) in (0..threads).flat_map(|id| [(id, 0), (id, 1), (id, 6)]) {
            let text = panic_of(&team, &|member| {
                (0..meetings).for_each(|_| member.barrier());
                assert!(member.id != failing, "member {failing} fails");
                member.barrier();
                beyond.store(true, Ordering::Relaxed);
            });
            assert_eq!(text, format!("member {failing} fails"));
            assert!(!beyond.load(Ordering::Relaxed));
            check(&team);
        }
    }
}

#[test]
fn members_that_all_panic_give_one_panic() {
    let team = Team::new(5);
    let text = panic_of(&team, &|member| {
        member.barrier();
        assert!(member.threads == 0, "member {} fails", member.id);
    });
    assert!(text.starts_with("member ") && text.ends_with(" fails"), "{text}");
    check(&team);
}

#[test]
fn a_member_that_skips_a_barrier_is_a_panic_and_not_a_hang() {
    for threads in [2, 3, 16] {
        let team = Team::new(threads);
        for skipping in 0..threads {
            let text = panic_of(&team, &|member| {
                member.barrier();
                if member.id != skipping {
                    member.barrier();
                }
            });
            assert_eq!(text, "a member of the team left the job before a barrier at which another one waits");
            check(&team);
        }
    }
}

#[test]
fn shares_cover_everything_once_and_cut_at_multiples() {
    for threads in [1, 2, 3, 5] {
        let team = Team::new(threads);
        for (n, multiple) in [(0, 12), (1, 12), (12, 12), (13, 6), (100, 12), (1001, 16), (5, 1)] {
            let parts: Vec<_> = (0..threads).map(|_| std::sync::Mutex::new((0..0, 0..0))).collect();
            team.run(&|member| *parts[member.id].lock().unwrap() = (member.share(n), member.share_by(n, multiple)));
            let (even, cut): (Vec<_>, Vec<_>) = parts.into_iter().map(|part| part.into_inner().unwrap()).unzip();
            assert!(
                even.iter().cloned().flatten().eq(0..n) && cut.iter().cloned().flatten().eq(0..n),
                "{even:?} {cut:?}"
            );
            assert!(even.iter().all(|part| part.len().abs_diff(n / threads) <= 1));
            assert!(cut.iter().all(|part| part.is_empty() || part.start % multiple == 0), "{cut:?}");
        }
    }
}

#[test]
fn chunks_are_handed_out_once_each() {
    for (threads, n) in [(1, 10), (2, 1000), (16, 1000), (3, 0)] {
        let (team, chunks) = (Team::new(threads), Chunks::new(n));
        let taken: Vec<_> = (0..n).map(|_| AtomicUsize::new(0)).collect();
        team.run(&|member| {
            while let Some(i) = chunks.next() {
                taken[i].fetch_add(1, Ordering::Relaxed);
            }
            member.barrier();
            assert_eq!(chunks.next(), None);
        });
        assert!(taken.iter().all(|times| times.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn a_range_outside_a_shared_buffer_is_refused() {
    let mut all = [0u8; 4];
    let shared = Disjoint::new(&mut all);
    for range in [3..5, 5..5, std::ops::Range { start: 3, end: 2 }] {
        // SAFETY: nothing else uses the buffer; a range outside it panics before a slice is made.
        assert!(catch_unwind(AssertUnwindSafe(|| unsafe { shared.slice(range.clone()).len() })).is_err());
        // SAFETY: as above.
        assert!(catch_unwind(AssertUnwindSafe(|| unsafe { shared.read(range).len() })).is_err());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn members_stay_in_their_places_and_the_leader_while_it_leads() {
    let free = affinity::usable().unwrap();
    // More members than there may be processors: they share.
    let places: Vec<Vec<usize>> = (0..3).map(|member| vec![free[member % free.len()]]).collect();
    let team = Team::placed(&places);
    let seen = || {
        let seen: Vec<_> = places.iter().map(|_| Mutex::default()).collect();
        team.run(&|member| *seen[member.id].lock().unwrap() = affinity::usable().unwrap());
        seen.into_iter().map(|ids| ids.into_inner().unwrap()).collect::<Vec<_>>()
    };
    let lead = team.lead();
    assert_eq!(seen(), places);
    drop(lead);
    assert_eq!(affinity::usable().unwrap(), free, "the caller's thread is free again");
    assert_eq!(seen()[1..], places[1..], "workers stay");
    drop(Team::new(2).lead());
    assert_eq!(affinity::usable().unwrap(), free);
}

#[test]
fn a_place_that_does_not_exist_leaves_the_member_where_it_is() {
    let nowhere = vec![crate::topology::MAX_PROCESSORS - 1];
    let team = Team::placed(&[nowhere.clone(), nowhere]);
    let lead = team.lead();
    check(&team);
    drop(lead);
    check(&team);
}
