//! `nxd pull` against a hub that behaves, and one that does not.

use std::fs;
use std::time::{Duration, Instant};

use crate::fake_hub::{COMMIT, FakeHub, Manners, sha256};
use crate::program::{Home, Run, files_below};

const CONFIG: &[u8] = br#"{"architectures":["LlamaForCausalLM"]}"#;

fn weights() -> Vec<u8> {
    (0..1_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn hub(manners: Manners) -> FakeHub {
    let weights = weights();
    let files: &[(&str, &[u8])] = &[
        ("config.json", CONFIG),
        ("tokenizer.json", b"{}"),
        ("model.safetensors", &weights),
        ("pytorch_model.bin", b"pickle"),
        ("README.md", b"text"),
    ];
    FakeHub::start(files, manners)
}

fn pull(home: &Home, hub: &FakeHub, model: &str) -> Run {
    home.nxd(&["pull", model], &[("HF_ENDPOINT", &hub.url)])
}

#[test]
fn a_model_is_downloaded_once_and_then_used_without_any_request() {
    let (home, hub) = (Home::new(), hub(Manners::default()));
    let first = pull(&home, &hub, "org/name");
    assert_eq!(first.code, Some(0), "{first:?}");
    let repo = home.hub().join("models--org--name");
    let snapshot = repo.join("snapshots").join(COMMIT);
    assert_eq!(first.out.trim(), snapshot.display().to_string());
    assert_eq!(fs::read(snapshot.join("model.safetensors")).unwrap(), weights());
    assert_eq!(fs::read(snapshot.join("config.json")).unwrap(), CONFIG);
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    // The layout of the hub's own library: a relative link to a blob named by its hash.
    let link = fs::read_link(snapshot.join("model.safetensors")).unwrap();
    assert_eq!(link.to_str().unwrap(), format!("../../blobs/{}", sha256(&weights())));
    let names = fs::read_dir(&snapshot).unwrap().count();
    assert_eq!(names, 3, "only config, tokenizer and safetensors");
    assert_eq!(hub.requests().len(), 4, "the listing and three files");

    let second = pull(&home, &hub, "org/name");
    assert_eq!((second.code, second.out), (Some(0), first.out));
    assert_eq!(hub.requests(), [""; 0]);
    let refreshed = home.nxd(&["pull", "org/name", "--refresh"], &[("HF_ENDPOINT", &hub.url)]);
    assert_eq!((refreshed.code, hub.requests().len()), (Some(0), 1), "{refreshed:?}");
}

#[test]
fn variables_choose_the_cache() {
    let hub = hub(Manners::default());
    for (vars, below) in [
        (&[("HF_HOME", "h")][..], "h/hub"),
        (&[("HF_HOME", "h"), ("HF_HUB_CACHE", "c")], "c"),
        (&[("XDG_CACHE_HOME", "x")], "x/huggingface/hub"),
    ] {
        let home = Home::new();
        let absolute: Vec<(&str, String)> =
            vars.iter().map(|(name, dir)| (*name, home.path().join(dir).display().to_string())).collect();
        let mut vars: Vec<(&str, &str)> = absolute.iter().map(|(name, dir)| (*name, dir.as_str())).collect();
        vars.push(("HF_ENDPOINT", &hub.url));
        let run = home.nxd(&["pull", "org/name"], &vars);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(home.path().join(below).join("models--org--name/refs/main").is_file(), "{below}");
    }
}

#[test]
fn large_files_are_followed_to_storage_without_the_token() {
    let (home, hub) = (Home::new(), hub(Manners { redirect: true, token: Some("secret"), ..Manners::default() }));
    let run = home.nxd(&["pull", "org/name"], &[("HF_ENDPOINT", &hub.url), ("HF_TOKEN", "secret")]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let repo = home.hub().join("models--org--name");
    assert!(repo.join("blobs").join(sha256(&weights())).is_file(), "named by the hub's hash, not by storage's");
    let requests = hub.requests();
    assert!(requests.contains(&"/storage/model.safetensors".to_owned()), "{requests:?}");
    for request in requests {
        assert_eq!(request.ends_with(" signed"), !request.starts_with("/storage/"), "{request}");
    }
}

#[test]
fn a_token_is_sent_and_its_lack_is_explained() {
    let (home, hub) = (Home::new(), hub(Manners { token: Some("secret"), ..Manners::default() }));
    let without = pull(&home, &hub, "org/name");
    assert_eq!(without.code, Some(3), "{without:?}");
    assert!(
        without.err.contains("401") && without.err.contains("HF_TOKEN") && without.err.contains("org/name"),
        "{}",
        without.err
    );
    let wrong = home.nxd(&["pull", "org/name"], &[("HF_ENDPOINT", &hub.url), ("HF_TOKEN", "no")]);
    assert!(wrong.code == Some(3) && wrong.err.contains("not valid"), "{wrong:?}");
    fs::write(home.path().join("token"), "secret\n").unwrap();
    let token = home.path().join("token").display().to_string();
    let right = home.nxd(&["pull", "org/name"], &[("HF_ENDPOINT", &hub.url), ("HF_TOKEN_PATH", &token)]);
    assert_eq!(right.code, Some(0), "{right:?}");
}

#[test]
fn refusals_name_the_model_the_address_and_a_way_out() {
    for (status, help) in
        [(401, "HF_TOKEN"), (403, "terms"), (404, "spelling"), (500, "later"), (503, "later"), (429, "later")]
    {
        let (home, hub) = (Home::new(), hub(Manners { status: Some(status), ..Manners::default() }));
        let run = pull(&home, &hub, "org/name");
        assert_eq!(run.code, Some(3), "{run:?}");
        for part in ["error[model]", "org/name", &status.to_string(), &hub.url, "help: ", help] {
            assert!(run.err.contains(part), "{status}: `{part}` in {}", run.err);
        }
        assert!(run.out.is_empty());
    }
}

#[test]
fn a_cut_is_resumed_within_the_run() {
    let (home, hub) = (Home::new(), hub(Manners { cut_at: Some((600_000, 1)), ..Manners::default() }));
    let run = pull(&home, &hub, "org/name");
    assert_eq!(run.code, Some(0), "{run:?}");
    let requests = hub.requests();
    assert!(requests.iter().any(|request| request.ends_with("model.safetensors from 600000")), "{requests:?}");
    assert_eq!(
        fs::read(home.hub().join("models--org--name/snapshots").join(COMMIT).join("model.safetensors")).unwrap(),
        weights()
    );
}

#[test]
fn a_cut_that_repeats_ends_the_run_and_the_next_run_resumes() {
    let (home, hub) = (Home::new(), hub(Manners { cut_at: Some((600_000, usize::MAX)), ..Manners::default() }));
    // The second connection begins where the first ended, and never gets further.
    let run = pull(&home, &hub, "org/name");
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.err.contains("cut after 600000 bytes") && run.err.contains("kept"), "{}", run.err);
    let partial = home.hub().join("models--org--name/blobs").join(format!("{}.incomplete", sha256(&weights())));
    assert_eq!(fs::metadata(&partial).unwrap().len(), 600_000);
    assert!(!home.hub().join("models--org--name/refs/main").exists(), "not announced as complete");

    hub.requests();
    hub.behave(Manners::default());
    let run = pull(&home, &hub, "org/name");
    assert_eq!(run.code, Some(0), "{run:?}");
    let requests = hub.requests();
    assert!(requests.iter().any(|request| request.ends_with("model.safetensors from 600000")), "{requests:?}");
    assert!(
        !requests.iter().any(|request| request.ends_with("config.json")),
        "what is there is not asked for: {requests:?}"
    );
    assert_eq!(
        fs::read(home.hub().join("models--org--name/snapshots").join(COMMIT).join("model.safetensors")).unwrap(),
        weights()
    );
    assert!(!partial.exists());
}

#[test]
fn a_server_without_ranges_sends_it_all_again() {
    let (home, hub) = (Home::new(), hub(Manners { cut_at: Some((600_000, 1)), no_ranges: true, ..Manners::default() }));
    let run = pull(&home, &hub, "org/name");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(
        fs::read(home.hub().join("models--org--name/snapshots").join(COMMIT).join("model.safetensors")).unwrap(),
        weights()
    );
}

#[test]
fn left_overs_of_something_else_are_not_trusted() {
    for left_over in [vec![7; 500_000], weights(), vec![7; 2_000_000]] {
        let (home, hub) = (Home::new(), hub(Manners::default()));
        let blobs = home.hub().join("models--org--name/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{}.incomplete", sha256(&weights()))), &left_over).unwrap();
        let first = pull(&home, &hub, "org/name");
        let good = left_over == weights();
        assert_eq!(first.code, Some(if good { 0 } else { 3 }), "{} bytes: {first:?}", left_over.len());
        let second = pull(&home, &hub, "org/name");
        assert_eq!(second.code, Some(0), "{} bytes: {second:?}", left_over.len());
        let blob = blobs.join(sha256(&weights()));
        assert_eq!(fs::read(blob).unwrap(), weights());
    }
}

#[test]
fn a_wrong_hash_is_refused_and_nothing_of_it_stays() {
    let (home, hub) = (Home::new(), hub(Manners { wrong_hash: true, ..Manners::default() }));
    let run = pull(&home, &hub, "org/name");
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.err.contains("sha-256") && run.err.contains(&sha256(CONFIG)), "{}", run.err);
    let files = files_below(&home.hub().join("models--org--name"));
    assert!(files.is_empty(), "{files:?}");
}

#[test]
fn offline_uses_the_cache_and_else_says_so() {
    let (home, hub) = (Home::new(), hub(Manners::default()));
    let offline = [("HF_ENDPOINT", hub.url.as_str()), ("HF_HUB_OFFLINE", "1")];
    let run = home.nxd(&["pull", "org/name"], &offline);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.err.contains("HF_HUB_OFFLINE") && run.err.contains("org/name"), "{}", run.err);
    assert_eq!(hub.requests(), [""; 0]);
    assert_eq!(pull(&home, &hub, "org/name").code, Some(0));
    hub.requests();
    assert_eq!(home.nxd(&["pull", "org/name"], &offline).code, Some(0));
    assert_eq!(hub.requests(), [""; 0]);
}

#[test]
fn nobody_listening_is_an_error_that_names_the_address() {
    let home = Home::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = home.nxd(&["pull", "org/name"], &[("HF_ENDPOINT", &format!("http://{closed}"))]);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.err.contains(&closed.to_string()) && run.err.contains("cause: "), "{}", run.err);
}

#[test]
fn a_silent_server_is_left_after_ten_seconds() {
    let (home, hub) = (Home::new(), hub(Manners { stall: true, ..Manners::default() }));
    let started = Instant::now();
    let run = pull(&home, &hub, "org/name");
    let took = started.elapsed();
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.err.contains("no byte from") && run.err.contains("10 s"), "{}", run.err);
    assert!(took > Duration::from_secs(9) && took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    for name in ["../../../evil.json", "/tmp/evil.json", "a/../../evil"] {
        let home = Home::new();
        let hub = FakeHub::start(
            &[("config.json", CONFIG), ("model.safetensors", b"x"), (name, b"evil")],
            Manners::default(),
        );
        let run = pull(&home, &hub, "org/name");
        assert!(run.code == Some(3) && run.err.contains("leads out of the cache"), "{run:?}");
        assert!(files_below(home.path()).is_empty());
    }
    let index = br#"{"weight_map":{"a":"../../../../evil.safetensors"}}"#;
    let hub = FakeHub::start(&[("config.json", CONFIG), ("model.safetensors.index.json", index)], Manners::default());
    let home = Home::new();
    let run = pull(&home, &hub, "org/name");
    assert!(run.code == Some(3) && run.err.contains("leads out of the cache"), "{run:?}");
}

#[test]
fn sharded_weights_are_those_that_the_index_names() {
    let index = br#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    let files: &[(&str, &[u8])] = &[
        ("config.json", CONFIG),
        ("consolidated.safetensors", b"copy"),
        ("model-00001-of-00002.safetensors", b"one"),
        ("model-00002-of-00002.safetensors", b"two"),
        ("model.safetensors.index.json", index),
    ];
    let (home, hub) = (Home::new(), FakeHub::start(files, Manners::default()));
    let run = pull(&home, &hub, "org/name@refs/pr/1");
    assert_eq!(run.code, Some(0), "{run:?}");
    let requests = hub.requests();
    assert!(requests.iter().all(|request| request.contains("/refs%2Fpr%2F1")), "{requests:?}");
    assert!(!requests.iter().any(|request| request.contains("consolidated")), "{requests:?}");
    let repo = home.hub().join("models--org--name");
    assert_eq!(fs::read(repo.join("snapshots").join(COMMIT).join("model-00002-of-00002.safetensors")).unwrap(), b"two");
    // A shard that somebody removed is noticed and fetched again.
    fs::remove_file(repo.join("blobs").join(sha256(b"two"))).unwrap();
    assert_eq!(pull(&home, &hub, "org/name@refs/pr/1").code, Some(0));
    assert_eq!(hub.requests().len(), 2);
}

#[test]
fn one_gguf_of_many_is_chosen_by_its_quantisation_or_name() {
    let files: &[(&str, &[u8])] = &[("m-Q4_K_M.gguf", b"four"), ("m-Q8_0.gguf", b"eight"), ("README.md", b"text")];
    let (home, hub) = (Home::new(), FakeHub::start(files, Manners::default()));
    for (model, content) in [("org/name:q4_k_m", "four"), ("org/name:m-Q8_0.gguf", "eight")] {
        let run = pull(&home, &hub, model);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(fs::read_to_string(run.out.trim()).unwrap(), content);
        hub.requests();
        assert_eq!(pull(&home, &hub, model).code, Some(0));
        assert_eq!(hub.requests(), [""; 0]);
    }
    let run = pull(&home, &hub, "org/name:Q2_K");
    assert!(run.code == Some(3) && run.err.contains("m-Q4_K_M.gguf, m-Q8_0.gguf"), "{run:?}");
}

#[test]
fn repositories_of_pickles_are_refused() {
    let (home, hub) =
        (Home::new(), FakeHub::start(&[("config.json", CONFIG), ("pytorch_model.bin", b"pickle")], Manners::default()));
    let run = pull(&home, &hub, "org/name");
    assert!(run.code == Some(3) && run.err.contains("pytorch_model.bin") && run.err.contains("safetensors"), "{run:?}");
}

#[test]
fn two_runs_at_once_share_one_download() {
    let (home, hub) = (Home::new(), hub(Manners::default()));
    let codes: Vec<_> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| pull(&home, &hub, "org/name"))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    for run in codes {
        assert_eq!(run.code, Some(0), "{run:?}");
    }
    let snapshot = home.hub().join("models--org--name/snapshots").join(COMMIT);
    assert_eq!(fs::read(snapshot.join("model.safetensors")).unwrap(), weights());
}
