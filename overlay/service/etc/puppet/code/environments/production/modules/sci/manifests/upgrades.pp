# From SCI-CD, overlay/service: security updates come by themselves, reboots never.
# Where the packages come from is sci-agent's (step apt).
class sci::upgrades {
  package { 'unattended-upgrades':
    ensure => installed,
  }
  # Behind Debian's own 20auto-upgrades and 50unattended-upgrades, which stay as
  # they are: apt.conf(5).
  file { '/etc/apt/apt.conf.d/60sci-upgrades':
    ensure  => file,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    content => epp('sci/upgrades.epp', { 'node' => $sci::role == 'node' }),
    require => Package['unattended-upgrades'],
  }
}
