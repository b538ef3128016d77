package qtools.core

import java.io.File
import kotlin.math.abs
import kotlin.system.exitProcess

/**
 * What one vector came to.
 *
 * @property input The tensor that was computed here.
 * @property output What the network made of it; null where no network was run.
 * @property differing Bytes of the tensor that are not the recorded ones; -1 where there are more or fewer.
 * @property gap Largest difference of the answer from the recorded one, in real units; null where no network was run.
 */
class Replayed(
    val name: String,
    val what: String,
    val input: ByteArray,
    val output: ByteArray?,
    val differing: Int,
    val gap: Float?,
    val passed: Boolean,
) {
    override fun toString(): String {
        val tensor = if (differing == 0) "tensor equal" else "TENSOR DIFFERS in $differing bytes"
        val answer = if (gap == null) "network not run" else "answer off by $gap"
        return "vector $name ($what): $tensor, $answer" + if (passed) "" else "  FAILED"
    }
}

/**
 * Replays vectors: is every tensor the recorded one, byte for byte, and every answer near enough?
 *
 * @param read Bytes of a file among the vectors.
 * @param network From the input's bytes to the output's; null replays the tensors alone.
 * @throws IllegalArgumentException if the vectors belong to another artifact, or if the recorded output does not have
 *   the recorded classes on top here.
 */
fun replay(
    contract: Contract,
    read: (String) -> ByteArray,
    network: ((ByteArray) -> ByteArray)? = null,
): List<Replayed> {
    val recorded = Entries.of(parseJson(read("vectors.json").decodeToString()), "vectors.json")
    require(recorded.text("artifact_sha256") == contract.artifact.sha256) { "the vectors are of another artifact" }
    val tolerance = recorded.inside("tolerance").double("value")
    return recorded.list("vectors").map { each ->
        val vector = Entries.of(each, "vector")
        val picture = Picture(vector.int("width"), vector.int("height"), read(vector.text("rgb")))
        val tensor = prepare(picture, contract)
        val expected = read(vector.text("input"))
        val differing = if (tensor.size == expected.size) tensor.indices.count { tensor[it] != expected[it] } else -1
        val answer = realNumbers(read(vector.text("output")), contract)
        val classes = vector.list("top").map { Entries.of(it, "top").int("index") }
        require(top(answer, contract, classes.size).map { it.index } == classes) { "other classes are on top here" }
        val output = network?.invoke(tensor)
        val gap = output?.let { gap(realNumbers(it, contract), answer) }
        val passed = differing == 0 && (gap == null || gap <= tolerance)
        Replayed(vector.text("name"), vector.text("what"), tensor, output, differing, gap, passed)
    }
}

private fun gap(found: FloatArray, expected: FloatArray): Float {
    require(found.size == expected.size) { "${found.size} numbers came out instead of ${expected.size}" }
    var largest = 0f
    for (at in found.indices) largest = maxOf(largest, abs(found[at] - expected[at])) // a NaN stays, and fails
    return largest
}

/** `java -cp ... qtools.core.ReplayKt CONTRACT_JSON VECTORS_FOLDER`: the tensors alone; status 0 if all are equal. */
fun main(arguments: Array<String>) {
    val (contract, folder) = arguments
    val found = replay(Contract.parse(File(contract).readText()), { File(folder, it).readBytes() })
    found.forEach(::println)
    println("${found.count { it.passed }} of ${found.size} vectors passed")
    exitProcess(if (found.all { it.passed }) 0 else 1)
}
