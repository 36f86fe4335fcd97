// The gateway as fastify's own plug-ins make it: @fastify/jwt, a Set of denied jti, @fastify/http-proxy.
'use strict'
const { PORT, UPSTREAM, SECRET, ISSUER, DENIED } = process.env
const denied = new Set([DENIED])
const app = require('fastify')()

app.register(require('@fastify/jwt'), { secret: SECRET, verify: { algorithms: ['HS256'], allowedIss: ISSUER } })
app.register(require('@fastify/http-proxy'), {
  upstream: UPSTREAM,
  preHandler: async (request, reply) => {
    await request.jwtVerify()
    if (denied.has(request.user.jti)) return reply.code(401).send({ error: 'denied' })
  }
})
app.listen({ host: '127.0.0.1', port: Number(PORT) })
