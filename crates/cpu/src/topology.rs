//! Processors, cores and NUMA nodes as Linux reports them below `/sys`, and which processors the members of each rank's team get.
//!
//! Reading and placing are apart and neither asks the running system: tests describe machines in folders of their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Where Linux reports the machine.
pub const SYSTEM: &str = "/sys";

/// As many processors as an affinity mask of ours has bits for; Linux itself knows no more.
pub const MAX_PROCESSORS: usize = 8192;

/// What the system reports; what it does not report, or not in the form it should have, is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The logical processors that are online, by rising id.
    pub processors: Vec<Processor>,
    /// The NUMA nodes by rising id, those without processors among them.
    pub nodes: Vec<Node>,
}

/// A logical processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// The system's number for it.
    pub id: usize,
    /// Its core, named by the lowest of the ids that share it.
    pub core: usize,
}

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The system's number for it.
    pub id: usize,
    /// Its processors, by rising id; none where it has only memory.
    pub processors: Vec<usize>,
    /// Its memory.
    pub memory_bytes: Option<u64>,
}

/// How narrowly a member of a team is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// To the processors of its node, where there are several nodes.
    Node,
    /// To a processor of its own, or of its node where there are more members than processors.
    Processor,
}

/// The processors that each member of each rank's team may use: `[rank][member]`, by rising id.
pub type Placement = Vec<Vec<Vec<usize>>>;

impl Topology {
    /// Reads the folders that stand below `root` as Linux has them below [`SYSTEM`].
    pub fn read(root: &Path) -> Self {
        let nodes = nodes(&root.join("devices/system/node"));
        let folder = root.join("devices/system/cpu");
        let online = list(&folder.join("online"));
        let online = online.unwrap_or_else(|| sorted(nodes.iter().flat_map(|node| node.processors.clone())));
        let core = |id: usize| {
            let files = ["core_cpus_list", "thread_siblings_list"];
            let lists = files.iter().filter_map(|name| list(&folder.join(format!("cpu{id}/topology/{name}"))));
            lists.into_iter().find(|siblings| siblings.contains(&id)).map_or(id, |siblings| siblings[0])
        };
        Topology { processors: online.into_iter().map(|id| Processor { id, core: core(id) }).collect(), nodes }
    }

    /// How many cores are online.
    pub fn cores(&self) -> usize {
        sorted(self.processors.iter().map(|processor| processor.core)).len()
    }

    /// The `usable` processors of each node that has some, as they are to be filled: one of each core first, then their siblings. One
    /// node of all where the system does not say where each belongs.
    fn places(&self, usable: &[usize]) -> Vec<Place> {
        let of = |ids: &[usize]| {
            let mut seen = BTreeMap::new();
            let mut rank = |&id: &usize| {
                let known = self.processors.binary_search_by_key(&id, |processor| processor.id);
                let core = known.map_or(id, |at| self.processors[at].core);
                let before = seen.entry(core).or_insert(0);
                *before += 1;
                (*before, id)
            };
            let mut order: Vec<(usize, usize)> = ids.iter().map(&mut rank).collect();
            order.sort_unstable();
            Place { cores: seen.len(), order: order.into_iter().map(|(_, id)| id).collect() }
        };
        let usable = sorted(usable.iter().copied());
        let inside = |node: &Node| -> Vec<usize> {
            usable.iter().copied().filter(|id| node.processors.binary_search(id).is_ok()).collect()
        };
        let nodes: Vec<Vec<usize>> = self.nodes.iter().map(inside).filter(|ids| !ids.is_empty()).collect();
        // Each must lie in exactly one node for the cut to make sense.
        let all = sorted(nodes.iter().flatten().copied());
        match all == usable && nodes.iter().map(Vec::len).sum::<usize>() == usable.len() {
            true => nodes.iter().map(|ids| of(ids)).collect(),
            false => vec![of(&usable)],
        }
    }
}

/// The processors of one node in the order in which members take them.
struct Place {
    order: Vec<usize>,
    cores: usize,
}

/// Where the members of `ranks` teams of `threads` members each run, on the processors that are `usable` to the process; `None` where
/// nothing need be bound.
///
/// All members together are cut over the nodes by their cores (by their processors when there are more members than cores), in the order of
/// ranks: so ranks lie on nodes of their own where they divide, and a team that is larger than a node's part goes over several, its
/// members still by rising node.
pub fn placement(
    topology: &Topology,
    usable: &[usize],
    ranks: usize,
    threads: usize,
    binding: Binding,
) -> Option<Placement> {
    let places = topology.places(usable);
    if usable.is_empty() || (places.len() == 1 && binding == Binding::Node) {
        return None;
    }
    let members = ranks * threads;
    let cores: usize = places.iter().map(|place| place.cores).sum();
    let weight = |place: &Place| if members <= cores { place.cores } else { place.order.len() };
    let total: usize = places.iter().map(weight).sum();
    let (mut all, mut passed) = (Vec::with_capacity(members), 0);
    for place in &places {
        passed += weight(place);
        let here = (members * passed).div_ceil(total) - all.len();
        let whole = sorted(place.order.iter().copied());
        for i in 0..here {
            let own = binding == Binding::Processor && here <= place.order.len();
            all.push(if own { vec![place.order[i]] } else { whole.clone() });
        }
    }
    Some(all.chunks(threads.max(1)).map(<[_]>::to_vec).collect())
}

fn nodes(folder: &Path) -> Vec<Node> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let node = |path: &Path| {
        let id = path.file_name()?.to_str()?.strip_prefix("node")?.parse().ok()?;
        let memory = fs::read_to_string(path.join("meminfo")).unwrap_or_default();
        let memory_bytes = memory.lines().find(|line| line.contains("MemTotal")).and_then(kib);
        Some(Node { id, processors: list(&path.join("cpulist"))?, memory_bytes })
    };
    let mut nodes: Vec<Node> = entries.filter_map(|entry| node(&entry.path())).collect();
    nodes.sort_by_key(|node| node.id);
    nodes
}

/// The number of a line such as `MemTotal:  24624612 kB`, in bytes.
pub fn kib(line: &str) -> Option<u64> {
    line.strip_suffix("kB")?.split_whitespace().next_back()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The processors that a file names.
fn list(path: &Path) -> Option<Vec<usize>> {
    parse_list(&fs::read_to_string(path).ok()?)
}

/// `0-3,8` as numbers that rise; `None` for anything else, and for more processors than there can be.
fn parse_list(text: &str) -> Option<Vec<usize>> {
    let number = |text: &str| text.parse::<usize>().ok().filter(|id| *id < MAX_PROCESSORS);
    let mut ids = Vec::new();
    for part in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || ids.last().is_some_and(|before| *before >= first) {
            return None;
        }
        ids.extend(first..=last);
    }
    Some(ids)
}

/// Rising ids as `0-3,8`, the way the system writes them.
pub fn format_list(ids: &[usize]) -> String {
    let runs = ids.chunk_by(|a, b| a + 1 == *b);
    let run = |run: &[usize]| match run {
        [first, .., last] => format!("{first}-{last}"),
        alone => alone.iter().map(usize::to_string).collect(),
    };
    runs.map(run).collect::<Vec<_>>().join(",")
}

fn sorted(ids: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut ids: Vec<usize> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tempfile::TempDir;

    /// A machine's `/sys`: the `online` file, each node's processors, and the siblings of each core.
    fn machine(online: &str, nodes: &[&str], cores: &[&str]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        write(&root, "devices/system/cpu/online", online);
        for (id, cpulist) in nodes.iter().enumerate() {
            write(&root, &format!("devices/system/node/node{id}/cpulist"), cpulist);
            let memory = format!("Node {id} MemTotal:       {} kB\nNode {id} MemFree: 1 kB\n", 1000 + id);
            write(&root, &format!("devices/system/node/node{id}/meminfo"), &memory);
        }
        for siblings in cores {
            for id in parse_list(siblings).unwrap() {
                write(&root, &format!("devices/system/cpu/cpu{id}/topology/thread_siblings_list"), siblings);
            }
        }
        root
    }

    fn write(root: &TempDir, path: &str, text: &str) {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    /// Two nodes of two cores of two threads, siblings far apart as Intel numbers them.
    fn two_nodes() -> Topology {
        let root = machine("0-7", &["0-1,4-5", "2-3,6-7"], &["0,4", "1,5", "2,6", "3,7"]);
        Topology::read(root.path())
    }

    /// The only processor of each member of each rank.
    fn pinned(topology: &Topology, usable: &[usize], ranks: usize, threads: usize) -> Vec<Vec<usize>> {
        let placement = placement(topology, usable, ranks, threads, Binding::Processor).unwrap();
        placement.iter().map(|members| members.iter().map(|cpus| cpus[0]).collect()).collect()
    }

    #[test]
    fn one_node_fills_cores_before_siblings() {
        let topology = Topology::read(machine("0-7", &["0-7"], &["0-1", "2-3", "4-5", "6-7"]).path());
        assert_eq!((topology.cores(), topology.processors.len()), (4, 8));
        assert_eq!(topology.nodes[0].memory_bytes, Some(1000 * 1024));
        let all: Vec<usize> = (0..8).collect();
        assert_eq!(pinned(&topology, &all, 1, 3), [[0, 2, 4]]);
        assert_eq!(pinned(&topology, &all, 2, 4), [[0, 2, 4, 6], [1, 3, 5, 7]]);
        assert_eq!(placement(&topology, &all, 1, 3, Binding::Node), None, "there is nothing to choose");
        assert_eq!(pinned(&topology, &[3, 2, 6], 1, 3), [[2, 6, 3]], "only what the process may use");
    }

    #[test]
    fn ranks_lie_on_nodes_of_their_own() {
        let (topology, all) = (two_nodes(), (0..8).collect::<Vec<_>>());
        assert_eq!(topology.cores(), 4);
        assert_eq!(pinned(&topology, &all, 2, 2), [[0, 1], [2, 3]]);
        assert_eq!(pinned(&topology, &all, 2, 4), [[0, 1, 4, 5], [2, 3, 6, 7]]);
        assert_eq!(pinned(&topology, &all, 4, 1), [[0], [1], [2], [3]]);
        let nodes = [vec![0, 1, 4, 5], vec![2, 3, 6, 7]];
        let bound = placement(&topology, &all, 2, 2, Binding::Node).unwrap();
        assert_eq!(bound, nodes.clone().map(|node| vec![node; 2]));
        // One rank goes over both, its members in the order of nodes; the first node gets the odd one.
        let bound = placement(&topology, &all, 1, 3, Binding::Node).unwrap();
        assert_eq!(bound, [[nodes[0].clone(), nodes[0].clone(), nodes[1].clone()]]);
    }

    #[test]
    fn a_process_bound_to_one_node_stays_there() {
        assert_eq!(pinned(&two_nodes(), &[2, 3, 6, 7], 1, 4), [[2, 3, 6, 7]]);
        assert_eq!(placement(&two_nodes(), &[2, 3, 6, 7], 2, 2, Binding::Node), None);
    }

    #[test]
    fn more_members_than_processors_share_their_node() {
        let bound = placement(&two_nodes(), &[0, 4, 2], 1, 6, Binding::Processor).unwrap();
        assert_eq!(bound, [[vec![0, 4], vec![0, 4], vec![0, 4], vec![0, 4], vec![2], vec![2]]]);
    }

    #[test]
    fn offline_processors_are_left_out() {
        let topology = Topology::read(machine("0-1,3", &["0-1,3"], &["0", "1", "3"]).path());
        assert_eq!(topology.processors.iter().map(|p| p.id).collect::<Vec<_>>(), [0, 1, 3]);
        assert_eq!(pinned(&topology, &[0, 1, 3], 1, 3), [[0, 1, 3]]);
    }

    #[test]
    fn nodes_that_have_memory_alone_get_no_rank() {
        let topology = Topology::read(machine("0-3", &["0-1", "2-3", ""], &["0", "1", "2", "3"]).path());
        assert_eq!(topology.nodes.len(), 3);
        assert_eq!(topology.nodes[2].memory_bytes, Some(1002 * 1024));
        assert_eq!(pinned(&topology, &[0, 1, 2, 3], 2, 2), [[0, 1], [2, 3]]);
    }

    #[test]
    fn what_is_missing_or_malformed_is_as_if_not_reported() {
        let nothing = Topology::read(tempfile::tempdir().unwrap().path());
        assert_eq!(nothing, Topology::default());
        assert_eq!(pinned(&nothing, &[5, 1], 1, 2), [[1, 5]], "the affinity mask is enough");
        assert_eq!(placement(&nothing, &[5, 1], 2, 1, Binding::Node), None);
        assert_eq!(placement(&nothing, &[], 1, 2, Binding::Processor), None);
        for wrong in ["0-", "x", "3-1", "0-18446744073709551615", "1,1", "0-9999", "1,,2", "-1", "0-3:1/2"] {
            assert_eq!(parse_list(wrong), None, "{wrong}");
            // `online` fails, so that the nodes say who is there; then siblings fail, so that each is a core.
            let topology = Topology::read(machine(wrong, &["0-1", wrong], &["0-1"]).path());
            assert_eq!((topology.processors.len(), topology.nodes.len(), topology.cores()), (2, 1, 1), "{wrong}");
            let root = machine("0-1", &["0-1"], &[]);
            write(&root, "devices/system/cpu/cpu1/topology/core_cpus_list", wrong);
            write(&root, "devices/system/node/node0/meminfo", "Node 0 MemTotal: many kB");
            let topology = Topology::read(root.path());
            assert_eq!((topology.cores(), topology.nodes[0].memory_bytes), (2, None), "{wrong}");
        }
        // Siblings that do not name the processor itself, and nodes that both claim one.
        let root = machine("0-1", &["0-1", "1"], &[]);
        write(&root, "devices/system/cpu/cpu1/topology/core_cpus_list", "0");
        let topology = Topology::read(root.path());
        assert_eq!(topology.cores(), 2);
        assert_eq!(placement(&topology, &[0, 1], 2, 1, Binding::Node), None);
    }

    #[test]
    fn kilobyte_lines_become_bytes() {
        assert_eq!(kib("MemTotal:       2 kB"), Some(2048));
        assert_eq!(kib("Node 0 MemTotal:  3 kB"), Some(3072));
        assert_eq!(kib("HugePages_Total: 0"), None);
    }

    proptest! {
        #[test]
        fn lists_read_back(ids in proptest::collection::btree_set(0..MAX_PROCESSORS, 0..40)) {
            let ids: Vec<usize> = ids.into_iter().collect();
            prop_assert_eq!(parse_list(&format_list(&ids)), Some(ids));
        }

        #[test]
        fn every_member_has_a_place_and_none_is_shared_without_need(
            ranks in 1usize..6, threads in 1usize..6, usable in proptest::collection::btree_set(0usize..8, 1..8),
        ) {
            let usable: Vec<usize> = usable.into_iter().collect();
            let placement = placement(&two_nodes(), &usable, ranks, threads, Binding::Processor).unwrap();
            prop_assert_eq!(placement.len(), ranks);
            prop_assert!(placement.iter().all(|members| members.len() == threads));
            let all: Vec<usize> = placement.into_iter().flatten().flatten().collect();
            prop_assert!(all.iter().all(|id| usable.contains(id)));
            if ranks * threads <= usable.len() {
                prop_assert_eq!(sorted(all.iter().copied()).len(), all.len());
            }
        }
    }
}
