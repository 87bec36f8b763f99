# From SCI-CD, overlay/service: one person of the site file's admins.
#
# @param keys public SSH keys, lines of authorized_keys(5)
define sci::admin (Array[String[1]] $keys) {
  user { $name:
    ensure         => present,
    home           => "/home/${name}",
    managehome     => true,
    shell          => '/bin/bash',
    # No password, and not locked either: sshd refuses locked accounts.
    password       => '*',
    groups         => ['sci-admins', 'sudo'],
    membership     => minimum,
    purge_ssh_keys => false,
    require        => [Group['sci-admins'], Package['sudo']],
  }
  -> file { "/home/${name}/.ssh":
    ensure => directory,
    owner  => $name,
    group  => $name,
    mode   => '0700',
  }
  -> file { "/home/${name}/.ssh/authorized_keys":
    ensure  => file,
    owner   => $name,
    group   => $name,
    mode    => '0600',
    content => ["# Written by Puppet from the site file's admins. Changes here are undone.", $keys, ''].flatten.join("\n"),
  }
}
