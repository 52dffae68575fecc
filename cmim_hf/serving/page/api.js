// SPDX-License-Identifier: Apache-2.0
"use strict";

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  made.append(...children);
  return made;
}

function kind(schema) {
  if (!schema) return "";
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" or ");
  if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
  if (schema.type === "array") return schema.prefixItems ? `[${schema.prefixItems.map(kind).join(", ")}]` : `list of ${kind(schema.items)}`;
  const limits = [["minimum", "from"], ["exclusiveMinimum", "above"], ["maximum", "to"], ["exclusiveMaximum", "below"]];
  return [schema.type ?? "anything", ...limits.filter(([key]) => key in schema).map(([key, word]) => `${word} ${schema[key]}`)].join(" ");
}

async function begin() {
  const api = await (await fetch("/openapi.json")).json();
  for (const [path, methods] of Object.entries(api.paths)) {
    const [method, about] = Object.entries(methods)[0];
    const place = element("article", null, element("h2", `${method.toUpperCase()} ${path}`), element("p", about.description ?? ""));
    const named = about.requestBody?.content["application/json"].schema.$ref?.split("/").pop();
    const body = api.components.schemas[named];
    const fields = body ? Object.entries(body.properties).map(([name, schema]) => [name + (body.required?.includes(name) ? " *" : ""), schema]) : (about.parameters ?? []).map((one) => [one.name + (one.required ? " *" : ""), one.schema]);
    if (fields.length) {
      const table = element("table", null, element("tr", null, ...["field", "what", "default", ""].map((text) => element("th", text))));
      for (const [name, schema] of fields) {
        const known = [name, kind(schema), schema.default === undefined ? "" : JSON.stringify(schema.default), schema.description ?? ""];
        table.append(element("tr", null, ...known.map((text) => element("td", text))));
      }
      place.append(table);
    }
    document.getElementById("paths").append(place);
  }
}

begin();
