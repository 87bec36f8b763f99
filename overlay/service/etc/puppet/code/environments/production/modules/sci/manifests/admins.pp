# From SCI-CD, overlay/service: the people of the site file's admins. Their accounts
# have no password: they log in by their keys and become root by sudo. Whoever is
# not in the list any more keeps the files, and loses keys, groups and shell.
class sci::admins {
  $now = $sci::admins.map |$a| { $a['name'] }
  $gone = $facts['sci_admins'] ? {
    Array   => $facts['sci_admins'] - $now,
    default => [],
  }

  package { 'sudo':
    ensure => installed,
  }
  group { 'sci-admins':
    ensure => present,
    system => true,
  }
  file { '/etc/sudoers.d/sci-admins':
    ensure       => file,
    owner        => 'root',
    group        => 'root',
    mode         => '0440',
    content      => "# Written by Puppet. From SCI-CD, overlay/service, module sci.\n%sci-admins ALL=(ALL:ALL) NOPASSWD: ALL\n",
    validate_cmd => '/usr/sbin/visudo -cf %',
    require      => [Package['sudo'], Group['sci-admins']],
  }

  $sci::admins.each |$a| {
    sci::admin { $a['name']:
      keys => $a['keys'],
    }
  }
  $gone.each |$name| {
    # Keys first: what follows may fail.
    file { "/home/${name}/.ssh/authorized_keys":
      ensure => absent,
    }
    -> user { $name:
      ensure         => present,
      groups         => [],
      membership     => inclusive,
      shell          => '/usr/sbin/nologin',
      password       => '!',
      purge_ssh_keys => false,
    }
  }
}
