# From SCI-CD, overlay/service: mail to root, where the site file says where it
# goes. dma hands it to the site's mail server and listens nowhere; without an
# uplink it waits in /var/spool/dma.
class sci::mail {
  if $sci::mail {
    package { 'dma':
      ensure => installed,
    }
    file { '/etc/dma/dma.conf':
      ensure  => file,
      owner   => 'root',
      group   => 'mail',
      mode    => '0640',
      content => epp('sci/dma.epp', { 'smarthost' => $sci::mail['smarthost'] }),
      require => Package['dma'],
    }
    file { '/etc/mailname':
      ensure  => file,
      content => "${trusted['certname']}\n",
    }
    # One line of aliases(5); the others are whoever's they were.
    exec { 'sci: mail to root':
      command => "/bin/sh -c 'touch /etc/aliases && sed -i \"/^root:/d\" /etc/aliases && echo \"root: ${sci::mail['root']}\" >>/etc/aliases'",
      unless  => "/usr/bin/grep -qxF 'root: ${sci::mail['root']}' /etc/aliases",
    }
  }
}
