//! Compilers of all kinds, most of them bad, in the place of Neuron's.

use super::*;
use crate::kernel::{Implementation, KernelError};
use crate::program::{ProgramBuilder, ResultKey};
use crate::record::{Element, Type};
use crate::target::{Target as Device, check};
use nxd_runtime::neuron::Target;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SOURCE: &str = "def scale(x, factor):\n    return x\n";

fn kernels() -> Kernels {
    let mut kernels = Kernels::new();
    let kernel = NkiKernel::text(SOURCE, "scale");
    kernels.register("example.scale", &Device::NEURON, Implementation::Nki(kernel)).unwrap();
    kernels
}

/// A program with two calls of the kernel on one shape and one on another.
fn program(kernels: &Kernels) -> Program {
    let mut b = ProgramBuilder::new();
    for (name, rows) in [("x", 4), ("y", 4), ("z", 8)] {
        let x = b.input(name, &[rows, 64], Element::BF16);
        let attributes = [("factor", Attribute::Float(1e-5)), ("mode", Attribute::Text("\"exact\"".to_owned()))];
        let types = [Type::new(&[rows, 64], Element::BF16)];
        let y = kernels.lower(&mut b.rec, &Device::NEURON, "example.scale", &attributes, &[&x], &types).unwrap();
        b.result(ResultKey::Named("y"), &y[0]);
    }
    b.finish("test", 1, Device::NEURON.spread)
}

/// A folder with an interpreter that is a shell script, and the store.
struct Fake {
    root: tempfile::TempDir,
    command: Vec<OsString>,
}

impl Fake {
    /// `compile` is what the script does with a request to compile; it finds it in `$request`.
    fn new(compile: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let script = root.path().join("python");
        let text = format!(
            "request=$(cat)\ncase $request in\n*'\"task\":\"version\"'*) echo '{{\"version\": \"nki 0.6\"}}' ;;\n*)\n{compile}\n;;\nesac\n"
        );
        fs::write(&script, text).unwrap();
        // The shell is named, as a file that was just written cannot always be run.
        let command = vec!["/bin/sh".into(), script.into()];
        Fake { root, command }
    }

    fn compiler(&self) -> NkiCompiler {
        NkiCompiler::new(&self.command, Target::Trn2, &self.root.path().join("store"))
    }

    fn ready(&self) -> Result<Program, NkiError> {
        let mut kernels = kernels();
        kernels.set_nki(self.compiler());
        let program = program(&kernels);
        kernels.ready(program)
    }

    fn count(&self) -> usize {
        fs::read_to_string(self.root.path().join("count")).map_or(0, |text| text.lines().count())
    }

    /// A compiler that counts its calls, writes an artefact, and answers with base64 of `compiled`.
    fn good() -> Self {
        let fake = Fake::new("");
        let script = fake.root.path().join("python");
        let text = fs::read_to_string(&script).unwrap().replace(
            "*)\n\n",
            &format!(
                "*)\necho x >> {}/count\nfolder=${{request#*\\\"artifacts\\\":\\\"}}\nfolder=${{folder%%\\\"*}}\n\
                 mkdir $folder/deep\necho artefact > $folder/deep/kernel.bir\n\
                 echo '{{\"backend_config\": \"Y29tcGlsZWQ=\"}}'\n",
                fake.root.path().display()
            ),
        );
        fs::write(&script, text).unwrap();
        fake
    }
}

#[test]
fn a_call_is_recorded_as_a_description() {
    let kernels = kernels();
    let program = program(&kernels);
    assert_eq!(check(&program, &Device::NEURON), Ok(()));
    let found = descriptions(&program);
    let hash = NkiKernel::text(SOURCE, "scale").hash();
    let expected = format!(
        "{{\"nxd_nki_request\":1,\"kernel\":\"example.scale\",\"entry\":\"scale\",\"source_sha256\":\"{hash}\",\
         \"inputs\":[{{\"shape\":[4,64],\"dtype\":\"bf16\"}}],\"outputs\":[{{\"shape\":[4,64],\"dtype\":\"bf16\"}}],\
         \"attributes\":{{\"factor\":0.00001,\"mode\":\"\\\"exact\\\"\"}}}}"
    );
    assert_eq!((found.len(), &found[0]), (3, &expected));
    assert!(base64::encode(expected.as_bytes()).starts_with(DESCRIBED));
    let op = &program.ops[0].text;
    let layouts =
        "operand_layouts = [dense<[1, 0]> : tensor<2xindex>], result_layouts = [dense<[1, 0]> : tensor<2xindex>]";
    assert!(op.contains(&format!("@{NATIVE}(%x)")) && op.contains(layouts), "{op}");
    // It cannot run as it is.
    let error = kernels.ready(program).unwrap_err();
    assert!(matches!(&error, NkiError::Described { kernel } if kernel == "example.scale"), "{error}");
}

#[test]
fn a_program_without_nki_kernels_needs_no_compiler() {
    let mut b = ProgramBuilder::new();
    let x = b.input("x", &[4], Element::F32);
    let y = b.rec.abs(&x);
    b.result(ResultKey::Named("y"), &y);
    let program = b.finish("test", 1, Device::NEURON.spread);
    let text = program.text.clone();
    assert_eq!(Kernels::new().ready(program).unwrap().text, text);
}

#[test]
fn a_compiled_kernel_takes_the_place_of_its_description_and_is_kept() {
    let fake = Fake::good();
    let ready = fake.ready().unwrap();
    assert_eq!(fake.count(), 2, "once for each shape");
    assert_eq!(descriptions(&ready), [""; 0]);
    assert_eq!(ready.text.matches("backend_config = \"Y29tcGlsZWQ=\"").count(), 3);
    for op in &ready.ops {
        assert!(op.text.contains("\"Y29tcGlsZWQ=\"") && ready.text.contains(&op.text));
    }
    // Another process finds what this one compiled.
    assert_eq!(fake.ready().unwrap().text, ready.text);
    assert_eq!(fake.count(), 2);
    // A kernel whose artefacts are not whole is compiled again.
    let store = fs::read_dir(fake.root.path().join("store")).unwrap().map(|item| item.unwrap().path());
    let artefacts: Vec<PathBuf> = store.filter(|path| path.is_dir()).map(|path| path.join("deep/kernel.bir")).collect();
    assert_eq!(artefacts.len(), 2);
    fs::write(&artefacts[0], "other").unwrap();
    fs::remove_file(&artefacts[1]).unwrap();
    assert_eq!(fake.ready().unwrap().text, ready.text);
    assert_eq!(fake.count(), 4);
    assert_eq!(fake.ready().unwrap().text, ready.text);
    assert_eq!(fake.count(), 4);
}

#[test]
fn a_spoilt_index_is_compiled_again() {
    let fake = Fake::good();
    fake.ready().unwrap();
    for item in fs::read_dir(fake.root.path().join("store")).unwrap() {
        let path = item.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "json") {
            fs::write(path, "{\"backend_config\": \"Y2").unwrap();
        }
    }
    fake.ready().unwrap();
    assert_eq!(fake.count(), 4);
}

#[test]
fn what_the_compiler_says_is_told() {
    let fake = Fake::new("echo '{\"error\": \"ValueError: no engine for this\"}'");
    let error = fake.ready().unwrap_err();
    assert_eq!(
        error.to_string(),
        "NKI kernel `example.scale` does not compile for trn2: ValueError: no engine for this"
    );
    let left: Vec<_> = fs::read_dir(fake.root.path().join("store")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_answer_that_is_none_is_an_error() {
    for (compile, told) in [
        ("echo Segmentation fault", "`Segmentation fault`"),
        ("exit 3", "nothing (exit status: 3)"),
        ("echo broken >&2; exit 1", "nothing (exit status: 1: broken)"),
        ("echo '[1]'", "`[1]`"),
        ("echo '{\"backend_config\": \"\"}'", "`{\"backend_config\":\"\"}`"),
        ("echo '{\"backend_config\": \"no base64\"}'", "`{\"backend_config\":\"no base64\"}`"),
        // A description is no compiled kernel.
        ("echo '{\"backend_config\": \"eyJueGRfbmtpX3JlcXVlc3Qi\"}'", "eyJueGRfbmtpX3JlcXVlc3Qi"),
        ("head -c 5000 /dev/zero | tr '\\0' x", "xxx…`"),
        ("head -c 20000000 /dev/zero", "more than 16777216 bytes"),
    ] {
        let error = Fake::new(compile).ready().unwrap_err();
        assert!(matches!(error, NkiError::Garbage { .. }), "{compile}: {error}");
        assert!(error.to_string().contains(told) && error.to_string().contains("/bin/sh"), "{compile}: {error}");
    }
}

#[test]
fn much_that_is_printed_besides_does_no_harm() {
    let fake = Fake::new("head -c 3000000 /dev/zero >&2; echo '{\"backend_config\": \"Y29tcGlsZWQ=\"}'");
    assert!(fake.ready().unwrap().text.contains("Y29tcGlsZWQ="));
}

#[test]
fn a_compiler_that_hangs_is_stopped() {
    // The second one has a program of its own that holds the pipes.
    for compile in ["sleep 1000", "sleep 1000 & sleep 1000", "while :; do :; done"] {
        let fake = Fake::new(compile);
        let mut kernels = kernels();
        kernels.set_nki(fake.compiler().deadline(Duration::from_millis(500)));
        let start = Instant::now();
        let error = kernels.ready(program(&kernels)).unwrap_err();
        assert!(matches!(error, NkiError::Slow { .. }), "{compile}: {error}");
        assert!(error.to_string().contains("0.5 s"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn a_program_that_reads_nothing_and_leaves_others_behind_still_answers() {
    let fake = Fake::new("");
    fs::write(fake.root.path().join("python"), "sleep 1000 & echo $! > $0.left\necho '{\"version\": \"1\"}'\n")
        .unwrap();
    let compiler = fake.compiler().deadline(Duration::from_secs(60));
    // What it left holds the output open, so it is not known to be whole, and not taken for an answer.
    assert!(matches!(compiler.version(), Err(NkiError::Garbage { .. })));
    let left = fs::read_to_string(fake.root.path().join("python.left")).unwrap();
    std::process::Command::new("kill").arg(left.trim()).status().unwrap();
}

#[test]
fn an_interpreter_that_is_not_there_is_named() {
    let root = tempfile::tempdir().unwrap();
    for command in [vec![OsString::from("/nonexistent/python9")], vec![]] {
        let mut kernels = kernels();
        kernels.set_nki(NkiCompiler::new(&command, Target::Trn1, root.path()));
        let error = kernels.ready(program(&kernels)).unwrap_err();
        assert!(matches!(error, NkiError::Interpreter { .. }), "{error}");
        assert!(error.to_string().contains("NXD_NKI_PYTHON"), "{error}");
    }
    assert_eq!(NkiCompiler::command().len(), 1);
}

#[test]
fn a_kernel_of_another_source_is_not_compiled() {
    let fake = Fake::good();
    let recorded = program(&kernels());
    let mut other = Kernels::new();
    let changed = NkiKernel::text("def scale(x):\n    return x + x\n", "scale");
    other.register("example.scale", &Device::NEURON, Implementation::Nki(changed)).unwrap();
    other.set_nki(fake.compiler());
    assert!(matches!(other.ready(recorded), Err(NkiError::Unknown { .. })));
    assert_eq!(fake.count(), 0);
}

#[test]
fn a_source_may_be_a_file() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("kernel.py");
    fs::write(&path, SOURCE).unwrap();
    assert_eq!(NkiKernel::file(&path, "scale").unwrap(), NkiKernel::text(SOURCE, "scale"));
    fs::write(&path, vec![b' '; SOURCE_BYTES as usize + 1]).unwrap();
    assert!(NkiKernel::file(&path, "scale").is_err());
    assert!(NkiKernel::file(&root.path().join("none.py"), "scale").is_err());
}

#[test]
fn implementations_are_for_their_targets() {
    let nki = || Implementation::Nki(NkiKernel::text(SOURCE, "scale"));
    let mut kernels = kernels();
    let taken = kernels.register("example.scale", &Device::NEURON, nki()).unwrap_err();
    assert!(matches!(taken, KernelError::Taken { .. }), "{taken}");
    let unfit = kernels.register("example.scale", &Device::CPU, nki()).unwrap_err();
    assert!(matches!(unfit, KernelError::Unfit { target: "cpu", .. }), "{unfit}");
}

/// A package that looks like Neuron's, and the two that it needs.
fn fake_packages(folder: &Path) {
    let files = [
        ("nki/__init__.py", "def jit(f):\n    class Jitted:\n        func = staticmethod(f)\n    return Jitted()\n"),
        ("nki/compiler/__init__.py", ""),
        ("nki/compiler/frontend.py", "class ParserFrontend: pass\n"),
        (
            "nki/compiler/ncc_driver.py",
            "class CompilationMode:\n    INTEGRATION = 1\n\
             class CompileOptions:\n    def __init__(self, **given): self.given = given\n    \
             def disable_backend_optimizations(self): return self\n",
        ),
        (
            "nki/compiler/driver.py",
            "import base64, os, inspect\n\
             class Spec:\n    def __init__(self, shape): self.shape = shape\n\
             def compile_to_bir(kernel, frontend, inputs, compile_opts, output_names):\n    \
             print('noise of a compiler')\n    \
             inspect.getsource(kernel)\n    \
             result = kernel(**inputs)\n    \
             open(os.path.join(compile_opts.given['artifacts_dir'], 'bir'), 'w').write('bir')\n    \
             class Config:\n        operand_output_aliases = {}\n        output_specs = [Spec(result.shape)]\n        \
             backend_config_b64 = base64.b64encode(repr((inputs['x'].dtype, inputs['factor'], output_names)).encode())\n    \
             class Unit:\n        def build_config(self): return Config\n    \
             return Unit()\n",
        ),
        (
            "numpy.py",
            "class zeros:\n    def __init__(self, shape, dtype): self.shape, self.dtype = tuple(shape), dtype\n\
             def dtype(kind): return kind\n",
        ),
        ("ml_dtypes.py", "bfloat16 = 'brain'\n"),
        ("bin/neuronx-cc", ""),
    ];
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let compiler = folder.join("bin/neuronx-cc");
        fs::set_permissions(compiler, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Python with no packages but those in `folder`.
fn python(folder: &Path) -> Vec<OsString> {
    let path = std::env::var("PATH").unwrap();
    let bin = folder.join("bin");
    vec![
        "env".into(),
        format!("PYTHONPATH={}", folder.display()).into(),
        format!("PATH={}:{path}", bin.display()).into(),
        "python3".into(),
        "-S".into(),
    ]
}

fn compile_with_python(folder: &Path, source: &'static str) -> Result<Program, NkiError> {
    let mut kernels = Kernels::new();
    let kernel = NkiKernel::text(source, "scale");
    kernels.register("example.scale", &Device::NEURON, Implementation::Nki(kernel)).unwrap();
    kernels.set_nki(NkiCompiler::new(&python(folder), Target::Trn1, &folder.join("store")));
    let program = program(&kernels);
    kernels.ready(program)
}

#[test]
fn the_script_says_which_package_is_missing() {
    let root = tempfile::tempdir().unwrap();
    let error = compile_with_python(root.path(), SOURCE).unwrap_err();
    assert!(matches!(error, NkiError::Missing { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("No module named 'nki'") && text.contains("install AWS's packages `nki`"), "{text}");
    fake_packages(root.path());
    fs::remove_file(root.path().join("bin/neuronx-cc")).unwrap();
    let error = compile_with_python(root.path(), SOURCE).unwrap_err().to_string();
    assert!(error.contains("no program `neuronx-cc` on PATH"), "{error}");
}

#[test]
fn the_script_gives_the_compiler_what_it_wants() {
    let root = tempfile::tempdir().unwrap();
    fake_packages(root.path());
    let source = "import nki\n@nki.jit\ndef scale(x, factor, mode):\n    assert mode == '\"exact\"'\n    return x\n";
    let ready = compile_with_python(root.path(), source).unwrap();
    let config = ready.ops[0].text.split_once("backend_config = \"").unwrap().1.split_once('"').unwrap().0;
    let told = String::from_utf8(base64::decode(config).unwrap()).unwrap();
    assert_eq!(told, "('brain', 1e-05, ['output0'])");
    let folders = fs::read_dir(root.path().join("store")).unwrap().map(|item| item.unwrap().path());
    let whole = folders.filter(|path| path.join("bir").is_file() && path.join("kernel.py").is_file()).count();
    assert_eq!(whole, 2);
}

#[test]
fn the_script_tells_what_is_wrong_with_a_kernel() {
    let root = tempfile::tempdir().unwrap();
    fake_packages(root.path());
    for (source, told) in [
        ("def other(x): return x\n", "the source has no function `scale`"),
        ("def scale(x): return x\n", "takes ['x'], it is given 1 inputs and ['factor', 'mode']"),
        ("def scale(x, y, z): return x\n", "has no parameter `factor` behind its inputs"),
        ("def scale(x, factor, mode): return nothing\n", "NameError: name 'nothing' is not defined"),
        ("def scale(x, factor, mode) return x\n", "SyntaxError"),
        (
            "def scale(x, factor, mode):\n    x.shape = (1, 2)\n    return x\n",
            "the kernel returns shapes [[1, 2]], [[4, 64]] were declared",
        ),
    ] {
        let error = compile_with_python(root.path(), source).unwrap_err();
        assert!(matches!(error, NkiError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(told), "{error}");
    }
}
