"""Addresses that an admin gives: mail addresses, URLs, and which hosts are public."""

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.addresses import Target, is_public, mail_addresses, target


class MailAddressTests(SynchronousTestCase):
    """What is taken as a list of mail addresses."""

    def test_lists(self) -> None:
        """Addresses are separated by commas, and each counts once."""
        self.assertEqual(mail_addresses("ops@example.org"), ("ops@example.org",))
        self.assertEqual(mail_addresses("a@x.org, b+c@y.org,a@x.org"), ("a@x.org", "b+c@y.org"))
        self.assertEqual(mail_addresses(" "), ())

    def test_injection(self) -> None:
        """Nothing that ends a header, a command or an address is let in."""
        for bad in (
            "a@x.org\r\nBcc: b@y.org", "a@x.org\n", "a@x.org>\r\nDATA", "a b@x.org", "a@x.org;b@y.org", "<a@x.org>",
            '"a b"@x.org', "a@", "@x.org", "a@x..org", "a@-x.org", "ä@x.org", "a@x.org\0", "a@[127.0.0.1]",
            f"{'a' * 250}@x.org", ",", "a@x.org,",
        ):  # fmt: skip
            self.assertRaises(ValueError, mail_addresses, bad)

    def test_bounded(self) -> None:
        """At most five."""
        self.assertRaises(ValueError, mail_addresses, ",".join(f"a{number}@x.org" for number in range(6)))


class TargetTests(SynchronousTestCase):
    """What is taken as a URL."""

    def test_whole(self) -> None:
        """Host, port and path with its query."""
        self.assertEqual(target("https://Hook.example/x?y=1"), Target("hook.example", 443, "/x?y=1"))
        self.assertEqual(target("https://hook.example:8443").authority, "hook.example:8443")
        self.assertEqual(target("https://[2001:db8::1]:8443/").authority, "[2001:db8::1]:8443")

    def test_refused(self) -> None:
        """Other schemes, users, fragments, spellings of addresses that only resolvers know, and control characters."""
        for bad in (
            "http://hook.example/", "ftp://hook.example/", "file:///etc/passwd", "hook.example", "https://",
            "https:///x", "https://u:p@hook.example/", "https://hook.example#x", "https://hook.example/\r\nX: y",
            "https://hook.example/ x", "https://hook.example\\@other/", "https://127.1/", "https://2130706433/",
            "https://hook.example:0/", "https://hook.example:99999/", "https://hook.example:x/", "https://ä.example/",
            "https://[fe80::1%25eth0]/", "https://hook_.example/", f"https://hook.example/{'x' * 1000}",
        ):  # fmt: skip
            self.assertRaises(ValueError, target, bad)


class PublicTests(SynchronousTestCase):
    """Which addresses anybody on the Internet would reach."""

    def test_public(self) -> None:
        """Ordinary ones."""
        for address in ("8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"):
            self.assertTrue(is_public(address), address)

    def test_not_public(self) -> None:
        """Loopback, private, link-local, shared, reserved, multicast; and IPv6 that carries such an IPv4 address."""
        for address in (
            "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
            "0.0.0.0", "192.0.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1",
            "fe80::1%eth0", "fc00::1", "ff02::1", "ff0e::1", "2001:db8::1", "::ffff:127.0.0.1", "::127.0.0.1",
            "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:53aa:64c::1",
        ):  # fmt: skip
            self.assertFalse(is_public(address), address)
