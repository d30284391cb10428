#!/bin/sh
# Lays out the root folder of the image: the program, the libraries that it is linked with, the provider modules, and the
# user that it runs as. Nothing else: no shell, no package manager.
#
#   cargo build --release -p keyward && cargo xtask providers
#   deploy/image-root.sh target/release/keyward target/providers target/image/root
#
# The program is linked with glibc as every Rust program for x86_64-unknown-linux-gnu; the libraries come from this machine,
# so that they are those that it was built with.
set -eu
[ $# -eq 3 ] || { echo "usage: $0 PROGRAM PROVIDERS ROOT" >&2; exit 1; }
program=$1 providers=$2 root=$3
[ ! -e "$root" ] || { echo "error: $root is there already; take it away first" >&2; exit 1; }

install -D -m 0755 "$program" "$root/usr/bin/keyward"
ln -s keyward "$root/usr/bin/kubectl-keyward"
install -d -m 0755 "$root/usr/share/keyward/providers"
install -m 0644 "$providers"/*.wasm "$root/usr/share/keyward/providers/"

# `ldd` prints `NAME => PATH (ADDRESS)`, and the loader by its path alone. What is a link here is a file there.
ldd "$program" | sed -n 's/^[^/]*\(\/[^ ]*\).*/\1/p' | sort -u | while read -r library; do
    install -D -m 0755 "$library" "$root$library"
done

install -d -m 0755 "$root/etc"
printf 'root:x:0:0::/:/sbin/nologin\nkeyward:x:65532:65532::/:/sbin/nologin\n' > "$root/etc/passwd"
printf 'root:x:0:\nkeyward:x:65532:\n' > "$root/etc/group"
# Names are looked up in files, then by DNS; glibc's own default asks for more than is here.
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"
install -d -m 1777 "$root/tmp"
