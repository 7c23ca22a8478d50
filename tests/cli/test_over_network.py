"""Commands reach a supervisor over TLS, by its directory or by what is named for it."""

from __future__ import annotations

from pathlib import Path

import trustme

from tests.cli.running import Project


async def test_a_pool_on_a_network_is_operated_and_called_over_tls(tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    project = Project(
        tmp_path,
        'public_addr = "tls:localhost:0"\nlocal_addr = "tls:localhost:0"\n'
        'token_file = "token"\noperator_file = "operators"\n'
        'tls = { certificate = "chain.pem", key = "key.pem", authority = "authority.pem" }\n',
    )
    leaf, folder = authority.issue_cert("localhost"), project.directory
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "chain.pem").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    authority.cert_pem.write_to_path(folder / "authority.pem")
    (folder / "operators").write_text("of the operators, long enough\n")
    (folder / "operators").chmod(0o600)

    async with project.up():
        listing = (await project.run("ps", "--json")).json
        assert listing["local_addr"].startswith("tls:localhost:")
        assert (await project.run("call", "square", 7)).out == "49\n"

        words = ("ps", "--json", "--at", listing["local_addr"])
        unknown = await project.run(*words)
        assert unknown.code == 2 and "--operator-file" in unknown.err
        known = (*words, "--operator-file", folder / "operators")
        assert (await project.run(*known, "--authority", folder / "authority.pem")).code == 0
        env = {"AMNODE_OPERATOR_TOKEN": "of the operators, long enough"}
        env["AMNODE_AUTHORITY"] = str(folder / "authority.pem")
        assert (await project.run(*words, env=env)).code == 0
        distrusted = await project.run(*known, "--authority", stranger)
        assert distrusted.code in (3, 4) and "Traceback" not in distrusted.err
        none = await project.run(*known, "--authority", tmp_path / "none.pem")
        assert none.code == 2 and "none.pem" in none.err

        call = ("call", "square", 8, "--at", listing["public_addr"])
        named = ("--worker", "squares:Squares", "--token-file", folder / "token")
        trusting = ("--authority", folder / "authority.pem")
        assert (await project.run(*call, *named, *trusting)).out == "64\n"
