// Types of TypeScript from the document of the admin API (conf/openapi.json): every schema, and the answers of every
// path by method and status. Left out: headers and query parameters, which the document describes in words.
'use strict';

const indent = (text) => text.replaceAll('\n', '\n  ');
const comment = (text) => (text ? `/** ${text.replaceAll('*/', '*\\/')} */\n` : '');
const key = (name) => (/^[A-Za-z_$][\w$]*$/.test(name) ? name : JSON.stringify(name));

function object(schema) {
  const required = new Set(schema.required ?? []);
  const fields = Object.entries(schema.properties ?? {}).map(
    ([name, of]) => `${comment(of.description)}${key(name)}${required.has(name) ? '' : '?'}: ${type(of)};`,
  );
  const extra = schema.additionalProperties;
  // TypeScript wants the type of named fields to be one of the others' type.
  if (extra && typeof extra === 'object') fields.push(`[key: string]: ${fields.length ? 'unknown' : type(extra)};`);
  if (!fields.length) return extra === false ? '{}' : 'Record<string, unknown>';
  return `{${indent(`\n${fields.join('\n')}`)}\n}`;
}

/** The type that `#/components/schemas/NAME` or `#/components/schemas/NAME/properties/FIELD` names. */
function reference(ref) {
  const [name, , field] = ref.split('/').slice(3);
  return field ? `NonNullable<${name}[${JSON.stringify(field)}]>` : name;
}

function type(schema) {
  if (schema === true || schema === undefined) return 'unknown';
  if (schema.$ref) return reference(schema.$ref);
  if ('const' in schema) return JSON.stringify(schema.const);
  const either = schema.oneOf ?? schema.anyOf;
  if (either) return either.map(type).join(' | ');
  if (schema.allOf) return schema.allOf.map(type).join(' & ');
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(' | ');
  const kinds = [schema.type ?? (schema.properties ? 'object' : 'unknown')].flat();
  const one = (kind) =>
    ({
      array: () => `Array<${type(schema.items)}>`,
      object: () => object(schema),
      integer: () => 'number',
    })[kind]?.() ?? kind;
  return kinds.map(one).join(' | ');
}

function answers(operation) {
  const all = Object.entries(operation.responses).map(([status, { content }]) => {
    const json = content?.['application/json'];
    const body = json ? type(json.schema) : content ? 'string' : 'undefined';
    return `${comment(operation.responses[status].description)}${status}: ${body};`;
  });
  const body = operation.requestBody?.content?.['application/json']?.schema;
  const asked = body ? `body: ${type(body)};\n` : '';
  return `{${indent(`\n${asked}answers: {${indent(`\n${all.join('\n')}`)}\n};`)}\n}`;
}

/** The text of the module of types. */
exports.typesOf = (openapi) => {
  const schemas = Object.entries(openapi.components.schemas).map(
    ([name, schema]) => `${comment(schema.description)}export type ${name} = ${type(schema)};\n`,
  );
  const paths = Object.entries(openapi.paths).map(([path, methods]) => {
    const all = Object.entries(methods)
      .filter(([, operation]) => operation.responses)
      .map(([method, operation]) => `${comment(operation.summary)}${method}: ${answers(operation)};`);
    return `${JSON.stringify(path)}: {${indent(`\n${all.join('\n')}`)}\n};`;
  });
  return [
    `// Types of the admin API of stickyd, version ${openapi.info.version}; made from its OpenAPI document.\n`,
    ...schemas,
    `/** What each path of the API takes and answers, by method and status. */`,
    `export interface Paths {${indent(`\n${paths.join('\n')}`)}\n}\n`,
  ].join('\n');
};
