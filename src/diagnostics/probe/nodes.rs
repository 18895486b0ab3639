//! Device files: are they there, may this process open them, and which group would open them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::MachineSource;

/// A device file, or the folder `/dev/dri` that stands for the render nodes in it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceNode {
    /// It exists.
    pub present: bool,
    /// This process may read and write it. For `/dev/dri`: at least one render node.
    pub accessible: bool,
    /// Group that owns it; a number where the group has no name here, as in many containers.
    pub group: Option<String>,
    /// `/etc/group` lists this user in `group`. With `accessible` false: the session began before that.
    pub member: bool,
}

/// Files that are looked at whether they exist or not. The names are fixed by the drivers.
const NODES: [&str; 5] = [
    "/dev/nvidia0",
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/kfd",
    "/dev/dxg",
];

pub(super) fn look(source: &MachineSource) -> BTreeMap<String, DeviceNode> {
    let mut nodes: BTreeMap<String, DeviceNode> = NODES
        .iter()
        .map(|path| ((*path).to_owned(), describe(source, path)))
        .collect();

    let mut folder = DeviceNode {
        present: source.path("/dev/dri").is_dir(),
        ..DeviceNode::default()
    };
    for name in source.names("/dev/dri") {
        if !name.starts_with("renderD") {
            continue;
        }
        let path = format!("/dev/dri/{name}");
        let node = describe(source, &path);
        if node.accessible || folder.group.is_none() {
            folder = DeviceNode {
                accessible: folder.accessible || node.accessible,
                ..node.clone()
            };
        }
        nodes.insert(path, node);
    }
    nodes.insert("/dev/dri".to_owned(), folder);
    nodes
}

#[cfg(unix)]
fn describe(source: &MachineSource, path: &str) -> DeviceNode {
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{Access, access};

    let place = source.path(path);
    let Ok(metadata) = std::fs::metadata(&place) else {
        return DeviceNode::default();
    };
    let (group, members) = group(source, metadata.gid());
    DeviceNode {
        present: true,
        accessible: access(&place, Access::READ_OK | Access::WRITE_OK).is_ok(),
        member: user(source).is_some_and(|user| members.contains(&user)),
        group: Some(group),
    }
}

#[cfg(not(unix))]
fn describe(_source: &MachineSource, path: &str) -> DeviceNode {
    DeviceNode {
        present: Path::new(path).exists(),
        ..DeviceNode::default()
    }
}

/// Name and members of a group by its number; the number itself where `/etc/group` does not know it.
#[cfg(unix)]
fn group(source: &MachineSource, gid: u32) -> (String, Vec<String>) {
    let text = source.text(Path::new("/etc/group")).unwrap_or_default();
    text.lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let (name, _password, number, members) =
                (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            (number.parse() == Ok(gid)).then(|| {
                (
                    name.to_owned(),
                    members.split(',').map(str::to_owned).collect::<Vec<_>>(),
                )
            })
        })
        .unwrap_or_else(|| (gid.to_string(), Vec::new()))
}

/// Name of the user this process runs as.
#[cfg(unix)]
fn user(source: &MachineSource) -> Option<String> {
    let uid = rustix::process::geteuid().as_raw();
    source.text("/etc/passwd")?.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::super::testing::source;
    use super::*;

    #[test]
    fn absent_nodes_are_listed_as_absent() {
        let (_folder, source) = source(&[("/dev/dxg", "")], &[]);
        let nodes = look(&source);
        assert!(nodes["/dev/dxg"].present && nodes["/dev/dxg"].accessible);
        for path in ["/dev/nvidia0", "/dev/kfd", "/dev/dri"] {
            assert_eq!(nodes[path], DeviceNode::default(), "{path}");
        }
    }

    #[test]
    fn the_group_that_owns_a_node_is_named() {
        let (_folder, source) = source(&[("/dev/dri/renderD128", ""), ("/dev/dri/card0", "")], &[]);
        let node = source.path("/dev/dri/renderD128");
        let gid = std::fs::metadata(&node).unwrap().gid();
        let uid = rustix::process::geteuid().as_raw();
        std::fs::create_dir_all(source.path("/etc")).unwrap();
        std::fs::write(
            source.path("/etc/group"),
            format!("x:x:999999:\nrender:x:{gid}:anna,ken\n"),
        )
        .unwrap();
        std::fs::write(source.path("/etc/passwd"), format!("ken:x:{uid}:1::/:/bin/sh\n")).unwrap();
        std::fs::set_permissions(&node, std::fs::Permissions::from_mode(0o060)).unwrap();

        let nodes = look(&source);
        assert_eq!(nodes["/dev/dri"].group.as_deref(), Some("render"));
        assert!(nodes["/dev/dri"].member);
        assert!(!nodes.contains_key("/dev/dri/card0"));
        // Root may open everything, so only another user sees the refusal.
        assert_eq!(nodes["/dev/dri/renderD128"].accessible, uid == 0);
    }
}
