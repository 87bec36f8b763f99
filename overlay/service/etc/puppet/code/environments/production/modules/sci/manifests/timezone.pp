# From SCI-CD, overlay/service: the time zone. The time itself is sci-agent's
# (step time): Puppet does not touch chrony.
class sci::timezone {
  package { 'tzdata':
    ensure => installed,
  }
  file { '/etc/localtime':
    ensure  => link,
    target  => "/usr/share/zoneinfo/${sci::timezone}",
    require => Package['tzdata'],
  }
  # Older programs read this; Debian 13 does without.
  if $facts['os']['release']['major'] == '12' {
    file { '/etc/timezone':
      ensure  => file,
      content => "${sci::timezone}\n",
    }
  }
}
