# Run by pkg/installtest in the system under test: prints what is compared with
# another installation. Each part is a line "name status length length", then as
# many bytes of standard output and error. No process is started for a single
# file: a fork costs some 50 ms in emulation.
d=/run/sci-test.facts
export LC_ALL=C LVM_SUPPRESS_FD_WARNINGS=1
umask 077
rm -rf "$d"
mkdir "$d"

part() {
	name=$1
	shift
	status=0
	"$@" >"$d/out" 2>"$d/err" </dev/null || status=$?
	# shellcheck disable=SC2046
	echo "$name" "$status" $(stat -c %s "$d/out" "$d/err")
	cat "$d/out" "$d/err"
}

# The check "dpkg --verify" has read all files of all packages a minute ago.
verify() {
	if test -e /run/sci-test.verify; then cat /run/sci-test.verify; else dpkg --verify || true; fi
}

# Passwords and their hashes stay on the machine: locked, none, or how it is hashed.
shadow() {
	awk -F: -v OFS=: '{
		n = split($2, f, "$")
		if ($2 == "") $2 = "none"
		else if ($2 ~ /^[!*]/) $2 = "locked"
		else $2 = (n > 2) ? "set by method " f[2] : "set"
		print
	}' "$1"
}

# Type, mode, owner, link, path. The copy of the medium is what is installed
# from, not what is installed.
paths() {
	find "$@" -path /srv/sci -prune -o -printf '%y %m %u:%g\n%l\n%p\0'
}

# The agent's site file says how it was installed, which is what is to make no
# difference.
site() {
	if test -e /etc/sci/site.json; then
		sed -E 's/"install": ?"(packages|image)",?//' /etc/sci/site.json | tr -d ' \n' | sha256sum
	fi
}

sums() {
	find /etc -type f -print0 | xargs -0 -r sha256sum -z
}

privileged() {
	find /usr -xdev -type f -perm /6000 -printf '%y %m %u:%g\n%l\n%p\0'
}

capabilities() {
	if command -v getcap >/dev/null; then getcap -r /usr; else echo "/usr unknown: there is no getcap"; fi
}

overrides() { # status 1: there are none
	dpkg-statoverride --list || test $? -eq 1
}

{
	part host cat /etc/hostname
	part site site
	# shellcheck disable=SC2016
	part packages dpkg-query -W -f '${Package}:${Architecture} ${Version} ${db:Status-Abbrev}\n'
	part manual apt-mark showmanual
	part verify verify
	# shellcheck disable=SC2016
	part conffiles dpkg-query -W -f '${Package}:${Architecture}\n${Conffiles}\n'
	part diversions dpkg-divert --list
	part overrides overrides
	part alternatives update-alternatives --get-selections
	part debconf cat /var/cache/debconf/config.dat
	part users getent passwd
	part groups getent group
	part shadow shadow /etc/shadow
	part gshadow shadow /etc/gshadow
	part units systemctl list-unit-files --no-legend --no-pager --plain --full
	part etc paths /etc
	part sums sums
	part other paths /boot /home /opt /root /srv /usr/local
	part privileged privileged
	part capabilities capabilities
	part cmdline cat /proc/cmdline
	part mounts findmnt -P -o TARGET,SOURCE,FSTYPE,OPTIONS
	part blocks lsblk -P -b -o NAME,TYPE,SIZE,FSTYPE,LABEL,PTTYPE,PARTTYPE,PARTLABEL,MOUNTPOINT,UUID,PARTUUID,PTUUID
	part pvs pvs --reportformat json --units b --nosuffix -o pv_name,vg_name,pv_fmt,pv_attr,pv_size,pv_free,pe_start,pv_uuid
	part vgs vgs --reportformat json --units b --nosuffix -o vg_name,vg_fmt,vg_attr,vg_extent_size,vg_size,vg_free,vg_tags,vg_uuid
	part lvs lvs --reportformat json --units b --nosuffix -o lv_name,vg_name,segtype,lv_attr,lv_size,seg_pe_ranges,lv_tags,lv_uuid
	for f in TEXTS; do
		if test -f "$f"; then part "$f" cat "$f"; fi
	done
} | gzip -1
rm -rf "$d"
