// An issuer of tokens: `jose` makes keys and signs. Commands, one JSON per line: {"make": ALG, "kid": KID} answers with
// the public key, {"sign": KID, "claims": {…}} with a token.
import { createInterface } from 'node:readline';
import { SignJWT, exportJWK, exportSPKI, generateKeyPair } from 'jose';

const keys = new Map();
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

for await (const line of createInterface({ input: process.stdin })) {
  const { make, kid, sign, claims } = JSON.parse(line);
  if (make) {
    const { publicKey, privateKey } = await generateKeyPair(make, { extractable: true });
    keys.set(kid, { alg: make, privateKey });
    say({ jwk: { ...(await exportJWK(publicKey)), kid, alg: make, use: 'sig' }, pem: await exportSPKI(publicKey) });
  } else {
    const { alg, privateKey } = keys.get(sign);
    const token = await new SignJWT(claims).setProtectedHeader({ alg, kid: sign }).setIssuedAt().setExpirationTime('1h').sign(privateKey);
    say({ token });
  }
}
process.exit(0);
