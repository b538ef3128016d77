package qtools.vision

import android.content.Context
import qtools.core.Contract
import qtools.core.Detection
import qtools.core.Picture
import qtools.core.detect
import qtools.core.prepare
import qtools.core.realNumbers

/** A network that finds objects in a picture. */
class Detector(private val network: Network) : AutoCloseable by network {
    val contract: Contract get() = network.contract

    /** What is in a picture, the surest first; boxes are shares of the picture behind resize and crop. */
    fun detect(picture: Picture): List<Detection> {
        val given = network.run(prepare(picture, contract))
        val (logits, boxes) = contract.outputs.map { realNumbers(given.getValue(it.name), it) }
        return detect(logits, boxes, contract)
    }

    companion object {
        /**
         * See [Network.open].
         *
         * @throws IllegalArgumentException if the contract is not a detector's.
         */
        fun open(context: Context, options: RunOptions = RunOptions()): Detector {
            val network = Network.open(context, options)
            if (network.contract.decoding != null) return Detector(network)
            network.close()
            throw IllegalArgumentException("the contract is not a detector's")
        }
    }
}
