//! `nxd bench` on a tiny checkpoint: what its rows hold.

use crate::program::Home;

#[test]
fn generation_is_compared_with_what_memory_gives() {
    let model = crate::device::tiny();
    let args = ["--prompt-tokens", "4", "--gen-tokens", "2", "--batch", "1,3", "--repeat", "1", "--threads", "1"];
    let args = [&["bench", model.to_str().unwrap(), "--json"], &args[..]].concat();
    let run = Home::new().nxd(&args, &[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&run.out).unwrap();
    let named: Vec<_> =
        rows.iter().map(|row| (row["test"].as_str().unwrap(), row["batch"].as_u64().unwrap())).collect();
    assert_eq!(named, [("pp4", 1), ("tg2", 1), ("pp4", 3), ("tg2", 3)]);
    for row in &rows {
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
        assert!(number("memory_bytes_per_s") > 1e6, "{row}");
        if row["test"] == "pp4" {
            assert!(row["fraction_of_memory_limit"].is_null(), "{row}");
            continue;
        }
        let fraction = number("bytes_per_s") / number("memory_bytes_per_s");
        assert!((number("fraction_of_memory_limit") / fraction - 1.0).abs() < 1e-9, "{row}");
        // K and V are read beside the weights.
        let steps_per_s = row["tokens_per_s"]["median"].as_f64().unwrap() / number("batch");
        assert!(number("bytes_per_s") > steps_per_s * number("weights_bytes"), "{row}");
    }
}

#[test]
fn a_step_reads_the_experts_that_its_rows_chose() {
    let model = crate::device::tiny().with_file_name("mixtral-top2");
    let args = ["--prompt-tokens", "64", "--gen-tokens", "2", "--batch", "1,3", "--repeat", "1", "--threads", "1"];
    let args = [&["bench", model.to_str().unwrap(), "--json"], &args[..]].concat();
    let run = Home::new().nxd(&args, &[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&run.out).unwrap();
    let share = |row: &serde_json::Value| {
        row["weights_bytes_of_step"].as_f64().unwrap() / row["weights_bytes"].as_f64().unwrap()
    };
    let shares: Vec<f64> = rows.iter().map(share).collect();
    // Two of four experts for one row, nearly all for three, all for a prompt.
    let [prompt, one, _, three] = shares[..] else { panic!("{rows:?}") };
    assert!(one < 0.9 && one < three && three < prompt && prompt > 0.9999, "{shares:?}");
}
