//! The packages of a workspace, as cargo sees them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::{CrateType, MetadataCommand, TargetKind};

/// One package of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// The folder of its manifest.
    pub(crate) dir: PathBuf,
    /// Whether it has a library, and not programs alone.
    pub(crate) has_library: bool,
    /// The name of its module where it becomes a component: that of its library, which is a `cdylib`.
    pub(crate) module: Option<String>,
}

/// The packages of the workspace in `dir`, sorted by folder. Needs no network: dependencies are not looked at.
///
/// # Errors
/// Cargo cannot read the workspace.
pub(crate) fn packages(dir: &Path) -> Result<Vec<Package>> {
    let metadata = MetadataCommand::new()
        .manifest_path(dir.join("Cargo.toml"))
        .no_deps()
        .exec()
        .with_context(|| format!("cannot read the workspace in {}", dir.display()))?;
    let package = |package: cargo_metadata::Package| {
        let is_program = |kind: &TargetKind| {
            matches!(
                kind,
                TargetKind::Bin | TargetKind::Test | TargetKind::Bench | TargetKind::Example | TargetKind::CustomBuild
            )
        };
        let component = package.targets.iter().find(|target| target.crate_types.contains(&CrateType::CDyLib));
        Some(Package {
            dir: package.manifest_path.parent()?.into(),
            has_library: package.targets.iter().any(|target| !target.kind.iter().any(is_program)),
            module: component.map(|target| target.name.replace('-', "_")),
            name: package.name.to_string(),
        })
    };
    let mut packages: Vec<Package> = metadata.packages.into_iter().filter_map(package).collect();
    packages.sort_by(|left, right| left.dir.cmp(&right.dir));
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_has_its_packages_and_guests_are_components() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let named = |packages: &[Package], name: &str| packages.iter().find(|package| package.name == name).cloned();
        let here = packages(root).unwrap();
        assert_eq!(named(&here, "xtask").unwrap().dir, root.join("xtask"));
        assert_eq!(named(&here, "xtask").unwrap().module, None);
        assert!(named(&here, "assay").unwrap().has_library && !named(&here, "xtask").unwrap().has_library);
        let guests = packages(&root.join("guest")).unwrap();
        assert!(guests.iter().any(|guest| guest.dir == root.join("guest/standard") && guest.module.is_some()));
    }
}
