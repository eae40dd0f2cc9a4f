//! What the owner of a weight's bytes is told while rows are read one after the other.

use nxd_ops::weight::{ByteOwner, RowReader, SharedBytes};
use nxd_ops::{Format, LocalWeight, Role, Sharding, StoredWeight, WeightSpec};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Bytes, and what was said about them.
#[derive(Default)]
struct Told {
    bytes: Vec<u8>,
    expected: Mutex<Vec<Range<usize>>>,
    released: Mutex<Vec<Range<usize>>>,
}

impl ByteOwner for Told {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    fn expect(&self, range: Range<usize>) {
        self.expected.lock().unwrap().push(range);
    }
    fn release(&self, range: Range<usize>) {
        self.released.lock().unwrap().push(range);
    }
}

#[test]
fn rows_are_expected_before_they_are_read_and_released_behind_and_no_others_are() {
    const ROWS: usize = 5000;
    const COLS: usize = 600;
    let owner = Arc::new(Told { bytes: vec![7; ROWS * COLS * 2 + 100], ..Told::default() });
    // The weight begins within the owner's bytes.
    let data = SharedBytes::new(owner.clone()).slice(100..100 + ROWS * COLS * 2).unwrap();
    let shape = [ROWS, COLS];
    let spec = WeightSpec { name: "w".into(), role: Role::Matrix, shape, sharding: Sharding::Replicated };
    let origin = "file: tensor `w`".into();
    let stored = StoredWeight { origin, format: Format::F16, shape, data: data.into(), order: None, scales: None };
    let weight = LocalWeight::new(&spec, stored, 0).unwrap();
    for share in [0..ROWS, 1000..1016, 17..4321, 4990..5010, 30..30] {
        let mut reader: RowReader<'_> = weight.reader(share.clone());
        let bytes_of = |rows: Range<usize>| 100 + rows.start * COLS * 2..100 + rows.end.min(ROWS) * COLS * 2;
        let all = bytes_of(share.clone());
        for start in share.clone().step_by(16) {
            let rows = start..(start + 16).min(share.end);
            let mut copied = vec![0; rows.len() * COLS * 2];
            reader.read(rows.clone(), &mut copied);
            let expected = owner.expected.lock().unwrap();
            // Each begins where the one before ended.
            assert!(expected.windows(2).all(|two| two[0].end == two[1].start), "{expected:?}");
            let until = expected.last().map_or(all.start, |last| last.end);
            assert!(expected.first().is_none_or(|first| first.start == all.start));
            // Rows behind the last one are copied, as they are filled up with zeros.
            assert!(rows.end > ROWS || until >= bytes_of(rows).end, "{until}");
            assert!(until <= all.end && expected.iter().all(|range| range.len() <= 1 << 20));
        }
        drop(reader);
        let released: usize = owner.released.lock().unwrap().drain(..).map(|range| range.len()).sum();
        assert_eq!(released, all.len());
        owner.expected.lock().unwrap().clear();
    }
}
