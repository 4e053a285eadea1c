//! The contract between host and guests in words, `docs/wit.md`, and whether what was published still holds.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use wit_parser::{
    Docs, Function, FunctionKind, Handle, InterfaceId, PackageId, Resolve, Type, TypeDef, TypeDefKind, TypeId,
    TypeOwner, UnresolvedPackageGroup, WorldId, WorldItem, WorldKey,
};

/// Where the contract is, one folder for each version.
const FOLDERS: [&str; 2] = ["wit", "wit/0.1.0"];

/// Where it is in words, made by [`run`].
const PAGE: &str = "docs/wit.md";

/// What the version of a published package gets, to have it beside today's.
const PUBLISHED: &str = "-published";

/// Writes the page, or checks that it is what the contract says, and that no version changed since it was released.
///
/// # Errors
/// The contract cannot be read; the page is out of date; or a released version is another one now.
pub(crate) fn run(root: &Path, write: bool) -> Result<()> {
    let (resolve, package) = read(root, FOLDERS[0])?;
    let (page, path) = (page(&resolve, package)?, root.join(PAGE));
    if write {
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    } else {
        let known = fs::read_to_string(&path).unwrap_or_default();
        ensure!(known == page, "{PAGE} is not what wit/ says: `cargo xtask wit --write` makes it anew");
    }
    match released(root)? {
        None => println!("{PAGE} is up to date; nothing is released yet, so there is no contract to keep"),
        Some(tag) => {
            for folder in FOLDERS {
                check_released(root, &tag, folder)?;
            }
            println!("{PAGE} is up to date, and the contract is that of {tag}");
        }
    }
    Ok(())
}

/// A version of the contract.
fn read(root: &Path, folder: &str) -> Result<(Resolve, PackageId)> {
    let mut resolve = Resolve::default();
    // A folder of its own holds another version, which is not a part of this one.
    let package = resolve.push_group(UnresolvedPackageGroup::parse_dir(root.join(folder))?)?;
    Ok((resolve, package))
}

/// The newest release, by its tag.
fn released(root: &Path) -> Result<Option<String>> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"]);
    let found = git.output().context("git cannot be run")?;
    Ok(found.status.success().then(|| String::from_utf8_lossy(&found.stdout).trim().to_owned()))
}

/// Checks that a version of the contract is what it was at a tag, if it was there.
fn check_released(root: &Path, tag: &str, folder: &str) -> Result<()> {
    let git = |arguments: &[&str]| -> Result<String> {
        let output = Command::new("git").current_dir(root).args(arguments).output().context("git cannot be run")?;
        ensure!(output.status.success(), "git {}: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8(output.stdout)?)
    };
    let listed = git(&["ls-tree", "--name-only", tag, &format!("{folder}/")])?;
    let files: Vec<&str> = listed.lines().filter(|name| name.ends_with(".wit")).collect();
    let texts = files.iter().map(|file| git(&["show", &format!("{tag}:{file}")])).collect::<Result<Vec<_>>>()?;
    let today = today(root, folder)?;
    if texts.is_empty() {
        return Ok(());
    }
    ensure_kept(&texts.concat(), &today).with_context(|| format!("{folder} is not what it was in {tag}"))
}

/// All texts of a version of the contract, as one.
fn today(root: &Path, folder: &str) -> Result<String> {
    let mut paths: Vec<_> =
        fs::read_dir(root.join(folder))?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wit"));
    paths.sort();
    Ok(paths.iter().map(fs::read_to_string).collect::<Result<Vec<_>, _>>()?.concat())
}

/// Checks that today's contract keeps the worlds of a published one, if both have one version.
fn ensure_kept(published: &str, today: &str) -> Result<()> {
    let version = |text: &str| {
        let package = text.lines().find_map(|line| line.trim().strip_prefix("package ")?.strip_suffix(';'));
        package.map(str::to_owned).context("it names no package")
    };
    let (then, now) = (version(published)?, version(today)?);
    if then != now {
        return Ok(());
    }
    let published = published.replace(&format!("package {then};"), &format!("package {then}{PUBLISHED};"));
    let mut resolve = Resolve::default();
    let then = resolve.push_str("published.wit", &published)?;
    let now = resolve.push_str("today.wit", today)?;
    let worlds: Vec<(String, WorldId)> =
        resolve.packages[then].worlds.iter().map(|(name, &world)| (name.clone(), world)).collect();
    for (name, world) in worlds {
        let other = *resolve.packages[now].worlds.get(&name).with_context(|| format!("the world {name} is gone"))?;
        // Both ways: what a guest exports and what it imports are both relied on.
        for (from, to) in [(world, other), (other, world)] {
            wit_component::semver_check(resolve.clone(), from, to)
                .with_context(|| format!("the world {name} changed: a change needs a new version of the package"))?;
        }
    }
    Ok(())
}

/// The page: every world and interface with what is in them.
fn page(resolve: &Resolve, package: PackageId) -> Result<String> {
    let package = &resolve.packages[package];
    let mut out = String::new();
    writeln!(out, "# The contract between host and guests\n")?;
    writeln!(out, "<!-- Made from wit/ by `cargo xtask wit --write`. -->\n")?;
    writeln!(
        out,
        "The package `{}`, as [`wit/`](../wit) has it. Guests and callers that were built for 0.1.0, in\n\
         [`wit/0.1.0`](../wit/0.1.0), are served too.\n",
        package.name
    )?;
    for (name, &world) in &package.worlds {
        let world = &resolve.worlds[world];
        writeln!(out, "## World `{name}`\n")?;
        paragraph(&mut out, &world.docs)?;
        for (direction, items) in [("imports", &world.imports), ("exports", &world.exports)] {
            for (key, item) in items {
                world_item(&mut out, resolve, direction, key, item)?;
            }
        }
        writeln!(out)?;
    }
    for (name, &interface) in &package.interfaces {
        writeln!(out, "## Interface `{name}`\n")?;
        paragraph(&mut out, &resolve.interfaces[interface].docs)?;
        interface_items(&mut out, resolve, interface)?;
    }
    Ok(out.trim_end().to_owned() + "\n")
}

fn world_item(out: &mut String, resolve: &Resolve, direction: &str, key: &WorldKey, item: &WorldItem) -> Result<()> {
    match item {
        WorldItem::Interface { id, .. } => {
            let name = resolve.interfaces[*id].name.clone().unwrap_or_else(|| resolve.name_world_key(key));
            writeln!(out, "- {direction} [`{name}`](#interface-{name})")?;
        }
        WorldItem::Function(function) => {
            let docs = words(&function.docs);
            writeln!(out, "- {direction} `{}`: {docs}", signature(resolve, function))?;
        }
        WorldItem::Type { .. } => {}
    }
    Ok(())
}

fn interface_items(out: &mut String, resolve: &Resolve, interface: InterfaceId) -> Result<()> {
    let interface = &resolve.interfaces[interface];
    for (name, &id) in &interface.types {
        let definition = &resolve.types[id];
        // A type that is used from another interface stands there.
        if !matches!(definition.kind, TypeDefKind::Type(_)) {
            type_section(out, resolve, name, id, definition, &interface.functions)?;
        }
    }
    for (name, function) in interface.functions.iter().filter(|(_, function)| resource_of(function).is_none()) {
        writeln!(out, "### `{name}`\n\n```wit\n{}\n```\n", signature(resolve, function))?;
        paragraph(out, &function.docs)?;
    }
    Ok(())
}

/// A type's heading, words, and a table of its parts.
fn type_section<'a>(
    out: &mut String,
    resolve: &Resolve,
    name: &str,
    id: TypeId,
    definition: &TypeDef,
    functions: impl IntoIterator<Item = (&'a String, &'a Function)>,
) -> Result<()> {
    writeln!(out, "### {} `{name}`\n", definition.kind.as_str())?;
    paragraph(out, &definition.docs)?;
    let rows: Vec<(String, String)> = match &definition.kind {
        TypeDefKind::Record(record) => {
            let row = |field: &wit_parser::Field| {
                (format!("`{}: {}`", field.name, type_name(resolve, &field.ty)), words(&field.docs))
            };
            record.fields.iter().map(row).collect()
        }
        TypeDefKind::Variant(variant) => {
            let row = |case: &wit_parser::Case| {
                let of = case.ty.as_ref().map_or(String::new(), |of| format!("({})", type_name(resolve, of)));
                (format!("`{}{of}`", case.name), words(&case.docs))
            };
            variant.cases.iter().map(row).collect()
        }
        TypeDefKind::Enum(cases) => {
            cases.cases.iter().map(|case| (format!("`{}`", case.name), words(&case.docs))).collect()
        }
        TypeDefKind::Resource => {
            let own = functions.into_iter().filter(|(_, function)| resource_of(function) == Some(id));
            own.map(|(_, function)| (format!("`{}`", signature(resolve, function)), words(&function.docs))).collect()
        }
        _ => Vec::new(),
    };
    if !rows.is_empty() {
        writeln!(out, "| | |\n| --- | --- |")?;
        for (what, docs) in rows {
            writeln!(out, "| {what} | {} |", docs.replace('|', "\\|"))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The resource that a function belongs to.
fn resource_of(function: &Function) -> Option<TypeId> {
    match function.kind {
        FunctionKind::Method(id) | FunctionKind::Static(id) | FunctionKind::Constructor(id) => Some(id),
        _ => None,
    }
}

/// A function as WIT has it, without the name of its resource and the resource itself as a parameter.
fn signature(resolve: &Resolve, function: &Function) -> String {
    let is_static = matches!(function.kind, FunctionKind::Static(_));
    let skipped = usize::from(matches!(function.kind, FunctionKind::Method(_)));
    let parameters: Vec<String> = function.params[skipped..]
        .iter()
        .map(|parameter| format!("{}: {}", parameter.name, type_name(resolve, &parameter.ty)))
        .collect();
    let result = function.result.as_ref().map_or(String::new(), |of| format!(" -> {}", type_name(resolve, of)));
    let kind = if is_static { "static func" } else { "func" };
    format!("{}: {kind}({}){result}", function.item_name(), parameters.join(", "))
}

/// A type as WIT has it.
fn type_name(resolve: &Resolve, of: &Type) -> String {
    let name = |of: &Type| type_name(resolve, of);
    let Type::Id(id) = of else {
        return match of {
            Type::String => "string".to_owned(),
            Type::ErrorContext => "error-context".to_owned(),
            number => format!("{number:?}").to_lowercase(),
        };
    };
    let definition = &resolve.types[*id];
    if let (Some(name), TypeOwner::Interface(_) | TypeOwner::World(_)) = (&definition.name, definition.owner) {
        return name.clone();
    }
    match &definition.kind {
        TypeDefKind::Option(of) => format!("option<{}>", name(of)),
        TypeDefKind::List(of) => format!("list<{}>", name(of)),
        TypeDefKind::Tuple(tuple) => {
            format!("tuple<{}>", tuple.types.iter().map(name).collect::<Vec<_>>().join(", "))
        }
        TypeDefKind::Result(result) => {
            let part = |of: &Option<Type>| of.as_ref().map_or("_".to_owned(), name);
            format!("result<{}, {}>", part(&result.ok), part(&result.err))
        }
        TypeDefKind::Handle(Handle::Own(id)) => name(&Type::Id(*id)),
        TypeDefKind::Handle(Handle::Borrow(id)) => format!("borrow<{}>", name(&Type::Id(*id))),
        other => other.as_str().to_owned(),
    }
}

/// A comment on one line.
fn words(docs: &Docs) -> String {
    docs.contents.as_deref().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A comment as paragraphs, each on one line, as the contract has them.
fn paragraph(out: &mut String, docs: &Docs) -> Result<()> {
    if let Some(text) = &docs.contents {
        writeln!(out, "{}\n", text.trim())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT: &str = "package a:b@1.0.0;
        interface i {
            /// Ends badly.
            variant error { full(u32), gone }
            /// Answers.
            ask: func(texts: list<string>) -> result<option<f32>, error>;
        }
        /// A guest.
        world guest { export i; }";

    #[test]
    fn the_page_has_every_item_with_its_words() {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("a.wit", CONTRACT).expect("it is WIT");
        let page = page(&resolve, package).expect("it can be written");
        for part in [
            "## World `guest`\n\nA guest.\n\n- exports [`i`](#interface-i)\n",
            "### variant `error`\n\nEnds badly.\n",
            "| `full(u32)` |",
            "### `ask`\n\n```wit\nask: func(texts: list<string>) -> result<option<f32>, error>\n```\n\nAnswers.\n",
        ] {
            assert!(page.contains(part), "no {part:?} in\n{page}");
        }
    }

    #[test]
    fn a_version_may_change_its_words_and_nothing_else() {
        ensure_kept(CONTRACT, &CONTRACT.replace("Answers.", "Gives an answer.")).expect("only words changed");
        for (from, to) in [("full(u32), gone", "full(u32), gone, late"), ("full(u32)", "full(u64)"), ("texts:", "all:")]
        {
            let changed = CONTRACT.replace(from, to);
            ensure_kept(CONTRACT, &changed).expect_err(to);
            ensure_kept(CONTRACT, &changed.replace("@1.0.0", "@1.1.0")).expect("a new version is another contract");
        }
        ensure_kept(CONTRACT, &CONTRACT.replace("world guest", "world host")).expect_err("a world is gone");
    }
}
