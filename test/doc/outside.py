# SPDX-License-Identifier: Apache-2.0
"""Names in the documents that are not ours, so that nothing in the tree can vouch for them: (why a document needs
them, the names with two spaces between)."""

OUTSIDE = [
    ('what a guest calls its own things; we tell how to prepare one',
     'LABEL=  UUID=  MACAddress=  mac-address=  hwaddress  GRUB_CMDLINE_LINUX  DAEMON_ARGS  enp5s0  ens1  instance-id  '
     'systemd-networkd  ssh_deletekeys: true  virtio-win.iso  virtio-win-guest-tools.exe  needs_recovery  '
     'VM_Gen_Counter  QEMU0001  loader/random-seed  fsfreeze-hook.d  -F/etc/qemu/fsfreeze-hook  localhost'),
    ('programs of Windows, for whoever prepares such a guest',
     'vssadmin  bcdedit  C:\\Windows\\System32\\Sysprep\\sysprep.exe /generalize /oobe /shutdown  /unattend:FILE  '
     'guest-agent\\qemu-ga-x86_64.msi  QEMU Guest Agent VSS Provider'),
    ('programs of a Linux, host or guest',
     'qemu-img  strace  dumpe2fs  tune2fs  xfs_admin  xfs_repair  btrfstune  vgimportclone  update-grub  '
     'update-initramfs  cloud-init  apt  dnf  install  rm  cat  truncate  systemctl  poweroff  man  kill  ls  export  curl'),
    ('programs with which ours is built', 'meson  ninja  setarch  clang-format'),
    ('parts of the language of QEMU and its agent that the program does not send itself',
     'block-commit  qemu-img rebase  -b  -f raw  -read  -close  json:  compat=1.1  '
     '"backing-file": "1c4bba2df09a3c51e8f2a7d0.qcow2"'),
    ('how names are made: what is put in for the rest is told beside it',
     'Async.  get_F  set_F  ret_...  OpaqueRef:...  _new  _free  _init  _done  _open  _close  key=value  '
     'folder: what it does now  option = value'),
    ('a sign that is written behind or before a name', '+  #  \\e,'),
    ('keys of XenServer that are accepted and mean nothing', 'device-config:legacy_mode'),
    ('signals and rights of the system', 'SIGTERM  SIGINT  SIGHUP  SIGKILL  CAP_NET_ADMIN'),
]

# Where the files of a system, a host's or a guest's, are.
SYSTEM = ('/etc/', '/dev/', '/var/', '/proc/', '/srv/', '/run/', '~/')
