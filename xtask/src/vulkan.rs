//! Vulkan drivers for development, in `target/vulkan`: a fast lavapipe that runs kernels, and the GPU compilers of
//! Apple and AMD, which tell what they make of kernels without the hardware.
//!
//! A newer Debian is unpacked there, and programs are started through *its* loader (`ld-linux --library-path`), because
//! its drivers need a newer C library than this system may have. Nothing outside the folder changes. Packages come from
//! the mirror that apt is configured with. Needs Linux on x86-64, root and apt; the compilers need gcc too. A machine
//! with a Vulkan driver of its own uses that: see [`TestDriver`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::step::cargo;
use crate::wasm_std::debian_mirrors;

/// Test files that need a driver. The GPU engine's other tests run with all the rest.
pub(crate) const GPU_TESTS: [&str; 10] = [
    "gpu_kernels",
    "gpu_golden",
    "gpu_architectures",
    "gpu_engine",
    "gpu_word_table",
    "gpu_shared_device",
    "gpu_loading_memory",
    "gpu_command",
    "gpu_device_loss",
    "gpu_shaders",
];

/// The Debian release whose drivers are unpacked.
const RELEASE: &str = "trixie";
/// Mesa that still has a null device for AMD.
const NULL_DEVICE_MESA: &str = "25.0";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Where Debian's chromium keeps its software adapter.
const SWIFTSHADER: &str = "usr/lib/chromium/libvk_swiftshader.so";
/// Stands in for an Apple GPU's kernel driver.
const APPLE_SHIM: &str = include_str!("../gpu/apple-shim.c");

/// A driver of the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    /// Mesa's software adapter: runs kernels.
    Lavapipe,
    /// A second, independent software adapter, from Debian's chromium: runs kernels, slowly.
    SwiftShader,
    /// Mesa's compiler for Apple GPUs on a stand-in device: compiles only.
    Apple,
    /// Mesa's compiler for AMD GPUs on its null device: compiles only.
    Amd,
}

/// The folder, set up.
#[derive(Debug, Clone)]
pub(crate) struct VulkanRoot {
    dir: PathBuf,
}

impl VulkanRoot {
    /// Sets up lavapipe in `target/vulkan` under `root`; about a minute the first time, nothing after that.
    ///
    /// # Errors
    /// This is not such a machine, or a package cannot be downloaded.
    pub(crate) fn set_up(root: &Path) -> Result<Self> {
        let this = Self { dir: root.join("target/vulkan") };
        can_set_up()?;
        fs::create_dir_all(&this.dir)?;
        this.unpack_release()?;
        this.install_drivers()?;
        this.write_driver("lavapipe", &this.system().join(LIBRARIES).join("libvulkan_lvp.so"))?;
        this.write_runner(Driver::Lavapipe, "lavapipe", "")?;
        Ok(this)
    }

    /// Adds the compilers for Apple's and AMD's GPUs.
    ///
    /// # Errors
    /// A package cannot be downloaded, or gcc is missing.
    pub(crate) fn add_compilers(&self) -> Result<()> {
        self.unpack_old_mesa()?;
        self.write_driver("apple", &self.system().join(LIBRARIES).join("libvulkan_asahi.so"))?;
        self.write_driver("amd", &self.dir.join("mesa25").join(LIBRARIES).join("libvulkan_radeon.so"))?;
        let (source, shim) = (self.dir.join("apple-shim.c"), self.dir.join("apple-shim.so"));
        if fs::read_to_string(&source).ok().as_deref() != Some(APPLE_SHIM) || !shim.exists() {
            fs::write(&source, APPLE_SHIM)?;
            run(Command::new("gcc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&shim).arg(&source).arg("-ldl"))?;
        }
        let preload = format!("MESA_SHADER_CACHE_DISABLE=true LD_PRELOAD={}", shim.display());
        self.write_runner(Driver::Apple, "apple", &preload)?;
        let family = "MESA_SHADER_CACHE_DISABLE=true RADV_FORCE_FAMILY=${RADV_FORCE_FAMILY:-navi31}";
        self.write_runner(Driver::Amd, "amd", family)
    }

    /// Adds the second software adapter.
    ///
    /// # Errors
    /// Its package cannot be had.
    pub(crate) fn add_swiftshader(&self) -> Result<()> {
        let installed = Path::new("/").join(SWIFTSHADER);
        let library = if installed.exists() { installed } else { self.dir.join("swiftshader").join(SWIFTSHADER) };
        if !library.exists() {
            run(Command::new("apt-get").args(["download", "-q", "chromium-common"]).current_dir(&self.dir))?;
            let package = package(&self.dir, "chromium-common_")?;
            run(Command::new("dpkg").arg("-x").arg(package).arg(self.dir.join("swiftshader")))?;
            ensure!(library.exists(), "Debian's package chromium-common has no {}", library.display());
        }
        self.write_driver("swiftshader", &library)?;
        self.write_runner(Driver::SwiftShader, "swiftshader", "")
    }

    /// The script that starts a program with `driver`: `RUNNER PROGRAM ARGUMENTS…`.
    pub(crate) fn runner(&self, driver: Driver) -> PathBuf {
        self.dir.join(match driver {
            Driver::Lavapipe => "run-lavapipe",
            Driver::SwiftShader => "run-swiftshader",
            Driver::Apple => "run-apple",
            Driver::Amd => "run-amd",
        })
    }

    fn unpack_release(&self) -> Result<()> {
        let base = self.system();
        // Each mirror has every release, and the list is never empty.
        let mirror = debian_mirrors()?.swap_remove(0);
        if !base.join(".base").exists() {
            if run(Command::new("debootstrap").arg("--version")).is_err() {
                run(Command::new("apt-get").args(["update", "-q"]))?;
                run(Command::new("apt-get").args(["install", "-y", "-q", "debootstrap"]))?;
            }
            run(Command::new("debootstrap").args(["--variant=minbase", RELEASE]).arg(&base).arg(&mirror))?;
            fs::write(base.join(".base"), "")?;
        }
        for folder in ["etc/ssl/certs", "etc/apt/apt.conf.d"] {
            fs::create_dir_all(base.join(folder))?;
        }
        // The mirror may want this system's certificates, settings and name server. Each may be absent.
        for file in ["etc/ssl/certs/ca-certificates.crt", "etc/resolv.conf"] {
            let _ = fs::copy(Path::new("/").join(file), base.join(file));
        }
        for entry in fs::read_dir("/etc/apt/apt.conf.d")?.flatten() {
            let _ = fs::copy(entry.path(), base.join("etc/apt/apt.conf.d").join(entry.file_name()));
        }
        let sources = format!("deb {mirror} {RELEASE} main\ndeb {mirror} {RELEASE}-backports main\n");
        fs::write(base.join("etc/apt/sources.list"), sources).context("write the folder's sources.list")
    }

    fn install_drivers(&self) -> Result<()> {
        let done = self.system().join(".mesa");
        if done.exists() {
            return Ok(());
        }
        self.chroot("apt-get update -q")?;
        self.chroot(&format!(
            "apt-get install -y -q --no-install-recommends -t {RELEASE}-backports mesa-vulkan-drivers libvulkan1"
        ))?;
        fs::write(done, "").context("note that the drivers are there")
    }

    fn unpack_old_mesa(&self) -> Result<()> {
        let unpacked = self.dir.join("mesa25");
        if unpacked.join(LIBRARIES).exists() {
            return Ok(());
        }
        let versions = self.chroot("apt-cache madison mesa-vulkan-drivers")?;
        let old = versions
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(str::trim)
            .find(|version| version.contains(NULL_DEVICE_MESA))
            .with_context(|| format!("the mirror has no Mesa {NULL_DEVICE_MESA}"))?;
        self.chroot(&format!("cd /root && apt-get download -q mesa-vulkan-drivers={old}"))?;
        let package = package(&self.system().join("root"), "mesa-vulkan-drivers_25")?;
        run(Command::new("dpkg").arg("-x").arg(package).arg(unpacked))?;
        Ok(())
    }

    fn write_driver(&self, name: &str, library: &Path) -> Result<()> {
        let json = format!(
            "{{\"file_format_version\":\"1.0.0\",\"ICD\":{{\"api_version\":\"1.3.0\",\"library_path\":\"{}\"}}}}\n",
            library.display()
        );
        fs::write(self.dir.join(name).with_extension("json"), json).context("write a driver's description")
    }

    fn write_runner(&self, driver: Driver, name: &str, environment: &str) -> Result<()> {
        let (system, path) = (self.system(), self.runner(driver));
        let json = self.dir.join(name).with_extension("json");
        let script = format!(
            "#!/bin/bash\nexport VK_DRIVER_FILES={json} VK_ICD_FILENAMES={json} {environment}\n\
             exec \"{loader}\" --library-path \"{libraries}\" \"$@\"\n",
            json = json.display(),
            loader = system.join("lib64/ld-linux-x86-64.so.2").display(),
            libraries = system.join(LIBRARIES).display(),
        );
        fs::write(&path, script)?;
        // The runners are of use on Linux only; this program compiles everywhere.
        #[cfg(unix)]
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .context("make a runner executable")?;
        Ok(())
    }

    fn system(&self) -> PathBuf {
        self.dir.join("root")
    }

    fn chroot(&self, command: &str) -> Result<String> {
        run(Command::new("chroot").arg(self.system()).args(["sh", "-c", command]))
    }
}

/// What drives a GPU on this machine without `target/vulkan`.
fn own_driver() -> Option<&'static str> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Some("the driver of this system");
    }
    if ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].iter().any(|name| std::env::var_os(name).is_some()) {
        return Some("the driver that VK_DRIVER_FILES names");
    }
    let has_driver = |folder: &&str| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    ["/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d"].iter().any(has_driver).then_some("this system's Vulkan driver")
}

/// Whether the tests of the GPU engine need not be skipped. Not known elsewhere than on Linux on x86-64: a virtual Mac
/// may lack Metal.
pub(crate) fn tests_can_run() -> bool {
    cfg!(all(target_os = "linux", target_arch = "x86_64")) && (own_driver().is_some() || can_set_up().is_ok())
}

/// Whether `target/vulkan` can be set up on this machine, as far as it shows without a download.
///
/// # Errors
/// It cannot; the message says why.
pub(crate) fn can_set_up() -> Result<()> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "the packages in target/vulkan are Debian's for Linux on x86-64"
    );
    ensure!(run(Command::new("id").arg("-u"))?.trim() == "0", "only root can set up target/vulkan");
    debian_mirrors().map(drop)
}

/// Sets up the folder and prints how to use it: `cargo xtask vulkan-root`.
///
/// # Errors
/// As [`VulkanRoot::set_up`].
pub(crate) fn run_set_up(root: &Path, swiftshader: bool) -> Result<()> {
    let vulkan = VulkanRoot::set_up(root)?;
    vulkan.add_compilers()?;
    let mut drivers = vec![Driver::Lavapipe, Driver::Apple, Driver::Amd];
    if swiftshader {
        vulkan.add_swiftshader()?;
        drivers.push(Driver::SwiftShader);
    }
    for driver in drivers {
        println!("{driver:?}: {} PROGRAM", vulkan.runner(driver).display());
    }
    Ok(())
}

/// A Vulkan driver to test on.
#[derive(Debug)]
pub(crate) struct TestDriver {
    /// What starts the tests' binaries; `None` where this machine has a driver of its own, as macOS and Windows do.
    runner: Option<PathBuf>,
    /// Which driver it is.
    pub(crate) name: &'static str,
    /// The tests that are run.
    tests: &'static [&'static str],
    /// Passed to them.
    arguments: &'static [&'static str],
}

impl TestDriver {
    /// This machine's own, or else lavapipe in `target/vulkan`.
    ///
    /// # Errors
    /// The folder is needed and cannot be set up; the message says what would.
    pub(crate) fn find(root: &Path) -> Result<Self> {
        if let Some(name) = own_driver() {
            return Ok(Self { runner: None, name, tests: &GPU_TESTS, arguments: &[] });
        }
        let vulkan = VulkanRoot::set_up(root)
            .context("no Vulkan driver here, and target/vulkan cannot be set up: install mesa-vulkan-drivers")?;
        let runner = Some(vulkan.runner(Driver::Lavapipe));
        Ok(Self { runner, name: "lavapipe in target/vulkan", tests: &GPU_TESTS, arguments: &[] })
    }

    /// SwiftShader, for the tests that are kept for a second driver.
    ///
    /// # Errors
    /// The folder or the driver cannot be had.
    pub(crate) fn second(root: &Path) -> Result<Self> {
        let vulkan = VulkanRoot::set_up(root)?;
        vulkan.add_swiftshader()?;
        Ok(Self {
            runner: Some(vulkan.runner(Driver::SwiftShader)),
            name: "SwiftShader in target/vulkan",
            tests: &["gpu_golden"],
            arguments: &["--ignored", "second_driver"],
        })
    }

    /// The command that runs every test that needs a driver. `arguments` go to the test binaries.
    pub(crate) fn test_command(&self, root: &Path, arguments: &[String]) -> Command {
        let mut command = cargo(root);
        // The whole workspace is selected, as everywhere: any other selection would build some crates a second time.
        command.args(["test", "--release", "--workspace"]);
        for test in self.tests {
            command.args(["--test", test]);
        }
        if let Some(runner) = &self.runner {
            // Cargo starts test binaries with the first; tests start Assay's programs with the second.
            command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner).env("ASSAY_TEST_RUNNER", runner);
        }
        command.arg("--").args(self.arguments).args(arguments);
        command
    }
}

/// The downloaded package in `folder` whose name begins with `prefix`.
fn package(folder: &Path, prefix: &str) -> Result<PathBuf> {
    fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .with_context(|| format!("no package {prefix}* was downloaded"))
}

fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.env("DEBIAN_FRONTEND", "noninteractive").output().with_context(|| format!("start {shown}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{shown} failed: {}{stdout}", String::from_utf8_lossy(&output.stderr));
    Ok(stdout)
}
